/**
 * What the log of a journal at rest holds, in numbers: for `journal info`. Reads the live records once, and opens
 * nothing; `journal dump` shows them one by one.
 */
import { type BlockDevice, run } from '@qcow2/block-device';
import type { BoundJournal } from '@qcow2/codec';
import { type InspectedRecord, type InspectedSlots, inspectLog, type LogVisitor } from '@qcow2/journal';
import type { JsonObject } from './image-report.ts';

/** Numbers of a log, by the names that `journal info` prints. */
export async function journalContents(device: BlockDevice, journal: BoundJournal): Promise<JsonObject> {
  const totals = { guest: 0, metadata: 0, descriptors: 0 };
  let generation: number | undefined;
  let durable = 0;
  let tail: number | undefined;
  const visitor: LogVisitor = {
    slots: ({ slots, from }: InspectedSlots): void => {
      const slot = from === undefined ? undefined : slots[from].slot;
      generation = slot?.generation;
      tail = slot?.tailSequence;
      durable = slot?.durableSequence ?? 0;
    },
    record: ({ header, record }: InspectedRecord): void => {
      durable = Math.max(durable, header.durableThrough);
      for (const descriptor of record?.descriptors ?? []) {
        totals.descriptors++;
        if (descriptor.type === 'guest-write') totals.guest += descriptor.lengthBytes;
        if (descriptor.type === 'inline-write') totals.metadata += descriptor.bytes.length;
        if (descriptor.type === 'write-payload') totals.metadata += descriptor.lengthBytes;
      }
    },
  };
  const log = await run(inspectLog(device, journal, visitor));
  return {
    'ring-used': log.usedBytes,
    records: log.records,
    'tail-sequence': tail,
    'last-sequence': tail === undefined ? undefined : tail + log.records - 1,
    'known-durable': durable,
    'slot-generation': generation,
    descriptors: totals.descriptors,
    'guest-bytes': totals.guest,
    'metadata-bytes': totals.metadata,
    damage: log.error?.code,
  };
}
