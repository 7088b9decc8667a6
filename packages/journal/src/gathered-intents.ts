/**
 * What recovery and inspection know of intents after going through the chain: those that are open at its end,
 * each with the newest body that a record holds (JRN-INTENT-007).
 *
 * At most eight are held, whatever the log says.
 */
import type { JournalRecord } from '@qcow2/codec/journal/v1';
import { FormatError, journalIntentLimits, type Qcow2Error, UnsupportedFeatureError } from '@qcow2/spec';
import type { LoggedIntent } from './microtransaction.ts';
import type { RingGeometry } from './ring.ts';

/** An operation that was under way. */
export interface RecoveredIntent extends LoggedIntent {
  /** Sequence and host offset of the record that holds its newest descriptor. */
  readonly sequence: number;
  readonly hostOffset: number;
}

export class GatheredIntents {
  readonly #ring: RingGeometry;
  readonly #open = new Map<number, RecoveredIntent>();

  constructor(ring: RingGeometry) {
    this.#ring = ring;
  }

  /** Those that are open after the records seen so far, in the order in which they were first seen. */
  get open(): RecoveredIntent[] {
    return [...this.#open.values()];
  }

  /** @throws FormatError BAD_FIELD for a record that breaks a clause */
  note({ descriptors, sequence, position }: JournalRecord): void {
    const hostOffset = this.#ring.hostOffset + position;
    for (const descriptor of descriptors) {
      if (descriptor.type === 'intent-done') this.#open.delete(descriptor.intentId);
      if (descriptor.type !== 'intent') continue;
      const { intentId: id, intentKind: kind, body } = descriptor;
      const before = this.#open.get(id);
      if (before !== undefined && before.kind !== kind) {
        const message = `journal record ${sequence} repeats an intent as another kind`;
        throw new FormatError('BAD_FIELD', message, {
          field: 'intentKind',
          value: kind,
          hostOffset,
          clause: 'JRN-INTENT-009',
        });
      }
      this.#open.set(id, { id, kind, body: body.slice(), sequence, hostOffset });
      // A record may begin some and end others: what counts is what is open behind it, but memory is bounded meanwhile.
      if (this.#open.size <= 2 * journalIntentLimits.maxOpen) continue;
      this.#open.delete(id);
      throw tooMany(sequence, hostOffset);
    }
    if (this.#open.size > journalIntentLimits.maxOpen) throw tooMany(sequence, hostOffset);
  }
}

function tooMany(sequence: number, hostOffset: number): FormatError {
  const message = `at journal record ${sequence} too many intents are open`;
  return new FormatError('BAD_FIELD', message, { field: 'intentId', hostOffset, clause: 'JRN-INTENT-008' });
}

/** Why nobody may look at an image with these open intents who serves only `kinds`; undefined where one may. */
export function unknownIntent(
  open: readonly RecoveredIntent[],
  kinds: ReadonlySet<number>,
): Qcow2Error | undefined {
  const unknown = open.find(({ kind }) => !kinds.has(kind));
  if (unknown === undefined) return undefined;
  return new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    'an operation of a kind that is not known was under way',
    {
      feature: `journal intent kind ${unknown.kind}`,
      hostOffset: unknown.hostOffset,
      clause: 'JRN-INTENT-006',
    },
  );
}
