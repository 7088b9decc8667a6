/**
 * Bodies of intents, by kind (JRN-INTENT-020 and further).
 *
 * The codec of descriptors hands a body on as bytes: who serves a kind decodes it here, and believes it only
 * then.
 */
import {
  journalIntentDetachedTableLayout,
  journalIntentGrowLayout,
  journalIntentKinds,
  mappingSizes,
  qcow2Limits,
} from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { badField, type FieldOrigin } from './fields.ts';

const grow = compileLayout(journalIntentGrowLayout);
const detached = compileLayout(journalIntentDetachedTableLayout);

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

/** An L1 table that nothing names. The range is guest clusters of the disk that it would map. */
export interface DetachedTableIntent {
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly countedFrom: number;
  /** Behind the last one whose host clusters count a reference for it. */
  readonly countedTo: number;
}

/** What a table of the image can look like. */
export interface TableGeometry {
  readonly clusterBytes: number;
  /** Guest clusters that one L1 entry maps. */
  readonly l2Entries: number;
}

/** A new array. */
export function encodeDetachedTableIntent(intent: DetachedTableIntent, geometry: TableGeometry): Uint8Array {
  checkDetachedTable(intent, geometry, { hostOffset: 0 });
  return detached.encode(intent);
}

/**
 * @param origin where the body stands
 * @throws FormatError BAD_FIELD, BAD_ALIGNMENT, RESERVED_SET, OFFSET_TOO_LARGE, with the clause
 */
export function decodeDetachedTableIntent(
  body: Uint8Array,
  geometry: TableGeometry,
  origin: FieldOrigin,
): DetachedTableIntent {
  if (body.length !== journalIntentDetachedTableLayout.sizeBytes) {
    const why = `the body of an intent on a detached table has ${journalIntentDetachedTableLayout.sizeBytes} bytes`;
    throw badField('body', body.length, 'JRN-INTENT-030', origin, 0, why);
  }
  const { l1Offset, l1Entries, countedFrom, countedTo } = detached.decode(body, {
    hostOffset: origin.hostOffset,
    clusterBytes: geometry.clusterBytes,
  });
  const intent = { l1Offset, l1Entries, countedFrom, countedTo };
  checkDetachedTable(intent, geometry, origin);
  return intent;
}

function checkDetachedTable(
  { l1Offset, l1Entries, countedFrom, countedTo }: DetachedTableIntent,
  { l2Entries }: TableGeometry,
  origin: FieldOrigin,
): void {
  const clause = 'JRN-INTENT-031';
  if (l1Offset === 0) {
    throw badField(
      'l1Offset',
      l1Offset,
      clause,
      origin,
      0,
      'a detached table does not stand over the header',
    );
  }
  if (l1Entries * mappingSizes.l1EntryBytes > qcow2Limits.maxL1TableBytes) {
    throw badField('l1Entries', l1Entries, clause, origin, 8, 'a detached table has 32 MiB at most');
  }
  if (countedTo < countedFrom || countedTo > l1Entries * l2Entries) {
    const why = 'the counted range of a detached table lies in what it maps';
    throw badField('countedTo', countedTo, clause, origin, 24, why);
  }
}

/** The name of a kind, as the specification's table has it; undefined for one that it does not have. */
export function intentKindName(kind: number): keyof typeof journalIntentKinds | undefined {
  const names = Object.keys(journalIntentKinds) as (keyof typeof journalIntentKinds)[];
  return names.find((name) => journalIntentKinds[name] === kind);
}
