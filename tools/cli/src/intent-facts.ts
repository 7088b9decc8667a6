/** What the body of an intent says, for people. */
import {
  type DetachedTableIntent,
  decodeDetachedTableIntent,
  decodeGrowIntent,
  type GrowIntent,
  type TableGeometry,
} from '@qcow2/codec/journal/v1';
import { FormatError, journalIntentKinds } from '@qcow2/spec';

export type IntentFacts =
  | ({ readonly kind: 'grow' } & GrowIntent)
  | ({ readonly kind: 'detachedTable' } & DetachedTableIntent);

/** An image's geometry is not at hand where single descriptors are shown: what any image may have. */
const anyGeometry: TableGeometry = { clusterBytes: 512, l2Entries: 2 ** 18 };

/** Undefined for a kind that is not known, and for a body that is not what its kind has. */
export function intentFacts(intent: { intentKind: number; body: Uint8Array }): IntentFacts | undefined {
  const origin = { hostOffset: 0 };
  try {
    switch (intent.intentKind) {
      case journalIntentKinds.grow:
        return { kind: 'grow', ...decodeGrowIntent(intent.body, origin) };
      case journalIntentKinds.detachedTable:
        return { kind: 'detachedTable', ...decodeDetachedTableIntent(intent.body, anyGeometry, origin) };
      default:
        return undefined;
    }
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}
