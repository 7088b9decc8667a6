/** What the body of an intent says, for people. */
import { decodeGrowIntent, type GrowIntent } from '@qcow2/codec/journal/v1';
import { FormatError, journalIntentKinds } from '@qcow2/spec';

/** Undefined for a kind that is not known, and for a body that is not what its kind has. */
export function intentFacts(intent: { intentKind: number; body: Uint8Array }): GrowIntent | undefined {
  if (intent.intentKind !== journalIntentKinds.grow) return undefined;
  try {
    return decodeGrowIntent(intent.body, { hostOffset: 0 });
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}
