/** Records of a journal: those that a recorded device got, and one more, made by hand, behind a live log. */
import { type MemoryDevice, type RecordedOperation, run } from '@qcow2/block-device';
import {
  decodeRecord,
  encodeRecord,
  type JournalDescriptor,
  type JournalRecord,
} from '@qcow2/codec/journal/v1';
import { recoverLog, ringOf } from '@qcow2/journal';
import { hostOffset } from '@qcow2/spec';

/** Records that do not wrap, with the time at which they were appended. */
export function appendedRecords(
  log: readonly RecordedOperation[],
  blockBytes = 512,
): { record: JournalRecord; time: number }[] {
  const records: { record: JournalRecord; time: number }[] = [];
  for (const operation of log) {
    if (operation.kind !== 'write' || operation.event !== 'journal_append') continue;
    try {
      const context = { hostOffset: hostOffset(operation.offset), blockBytes, maxBlocks: 28 };
      records.push({ record: decodeRecord(operation.bytes, context), time: operation.startedAt });
    } catch {
      // A piece of a record that wraps.
    }
  }
  return records;
}

/** Continue the log of a dirty image by a valid record. */
export async function appendRecord(
  memory: MemoryDevice,
  area: { hostOffset: number; lengthBytes: number },
  descriptors: JournalDescriptor[],
): Promise<void> {
  const nothing = () => undefined;
  const fills = { copy: nothing, fillFromBacking: nothing, cancel: nothing };
  const log = await run(recoverLog(memory, area, { guestWrite: nothing, guestSettled: nothing, fills }));
  const last = log.records.at(-1)!;
  const ring = ringOf(area, log.ring.blockBytes);
  const position = last.endLog % ring.lengthBytes;
  const record = encodeRecord({
    sequence: last.sequence + 1,
    journalId: log.slot.journalId,
    salt: last.salt,
    position,
    chain: last.crc,
    durableThrough: last.sequence,
    life: false,
    blockBytes: ring.blockBytes,
    descriptors,
    payload: [],
  });
  memory.write(ring.hostOffset + position, record.bytes);
}
