/**
 * Bodies of intents, by kind (JRN-INTENT-020 and further).
 *
 * The codec of descriptors hands a body on as bytes: who serves a kind decodes it here, and believes it only
 * then.
 */
import { journalIntentGrowLayout, journalIntentKinds } from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { badField, type FieldOrigin } from './fields.ts';

const grow = compileLayout(journalIntentGrowLayout);

/** The disk is being made larger. Sizes and the reach are guest bytes. */
export interface GrowIntent {
  readonly sizeBeforeBytes: number;
  readonly sizeAfterBytes: number;
  /** The mapping behind the end may have been changed up to here. */
  readonly reachBytes: number;
}

/** A new array. */
export function encodeGrowIntent(intent: GrowIntent): Uint8Array {
  checkGrow(intent, { hostOffset: 0 });
  return grow.encode(intent);
}

/**
 * @param origin where the body stands
 * @throws FormatError BAD_FIELD, OFFSET_TOO_LARGE, with the clause
 */
export function decodeGrowIntent(body: Uint8Array, origin: FieldOrigin): GrowIntent {
  if (body.length !== journalIntentGrowLayout.sizeBytes) {
    const why = `the body of an intent to grow has ${journalIntentGrowLayout.sizeBytes} bytes`;
    throw badField('body', body.length, 'JRN-INTENT-020', origin, 0, why);
  }
  const intent = grow.decode(body, { hostOffset: origin.hostOffset });
  checkGrow(intent, origin);
  return intent;
}

function checkGrow(intent: GrowIntent, origin: FieldOrigin): void {
  const { sizeBeforeBytes, sizeAfterBytes, reachBytes } = intent;
  if (sizeAfterBytes <= sizeBeforeBytes) {
    const why = 'a disk that grows is larger afterwards';
    throw badField('sizeAfterBytes', sizeAfterBytes, 'JRN-INTENT-021', origin, 8, why);
  }
  if (reachBytes < sizeBeforeBytes || reachBytes > sizeAfterBytes) {
    const why = 'the reach lies between the two sizes';
    throw badField('reachBytes', reachBytes, 'JRN-INTENT-021', origin, 16, why);
  }
}

/** The name of a kind, as the specification's table has it; undefined for one that it does not have. */
export function intentKindName(kind: number): keyof typeof journalIntentKinds | undefined {
  const names = Object.keys(journalIntentKinds) as (keyof typeof journalIntentKinds)[];
  return names.find((name) => journalIntentKinds[name] === kind);
}
