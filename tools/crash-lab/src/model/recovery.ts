/**
 * Recovery of the model: what `recoverLog` makes of a disk, and what must be true of it.
 *
 * The disk is one content for each place. Checksums are perfect here: a record is there where all of its blocks are.
 */
import { type LiveRecord, noFlush, type Phase, type State } from './state.ts';
import { recordInBlock, type Vocabulary } from './vocabulary.ts';

export interface Disk {
  readonly ring: readonly number[];
  readonly slots: readonly number[];
  readonly cells: readonly number[];
}

/** Within how many blocks behind what the newest durable slot calls durable a record begins [JRN-SLOT-018]. */
export function maxUnclaimedBlocks(ringBlocks: number): number {
  return Math.floor(ringBlocks / 2);
}

export interface ModelLog {
  readonly slot: number;
  readonly live: readonly LiveRecord[];
  readonly headLog: number;
  readonly lastSequence: number;
  readonly claimedSequence: number;
  /** Log offset behind the last record that the ruling slot calls durable. */
  readonly claimedLog: number;
  /** By cell: what the log holds for it, 0 for nothing. */
  readonly values: readonly number[];
}

/** A text says why recovery would refuse the disk. */
export function recoverLog(disk: Disk, words: Vocabulary, cells: number): ModelLog | string {
  const [first, second] = disk.slots.map((content) => words.slotOf(content));
  const newer = first!.generation > second!.generation ? 0 : 1;
  const slot = newer === 0 ? first! : second!;
  const older = newer === 0 ? second! : first!;
  if (slot.generation !== older.generation + 1) return 'the two header slots do not belong together';
  const blocks = disk.ring.length;
  const live: LiveRecord[] = [];
  const values = Array.from({ length: cells }, () => 0);
  let chainEnd = { sequence: slot.tailSequence - 1, salt: slot.tailSalt, chain: slot.tailChain };
  let headLog = slot.tailPosition;
  let claimed = slot.durableSequence;
  let claimedLog = slot.tailPosition;
  for (;;) {
    const room = blocks - (headLog - slot.tailPosition);
    const found = room < 1 ? undefined : wholeRecord(disk, words, headLog % blocks, room);
    if (found === undefined) break;
    const record = words.recordOf(found);
    const follows =
      record.sequence === chainEnd.sequence + 1 &&
      record.chain === chainEnd.chain &&
      (record.salt === chainEnd.salt || record.life);
    if (!follows) break;
    headLog += record.blocks;
    live.push({ record: found, endLog: headLog });
    if (record.sequence <= slot.durableSequence) claimedLog = headLog;
    values[record.cell] = record.value;
    claimed = Math.max(claimed, record.durableThrough);
    chainEnd = { sequence: record.sequence, salt: record.salt, chain: found };
  }
  const missing = chainEnd.sequence + 1;
  if (slot.durableSequence >= missing) return `JOURNAL_DAMAGED: the slot knows record ${missing} as durable`;
  const rest = blocks - (headLog - slot.tailPosition);
  const reach = Math.max(0, maxUnclaimedBlocks(blocks) - (headLog - claimedLog));
  const end = headLog + Math.min(rest, reach);
  for (let position = headLog; position < end; position++) {
    const found = wholeRecord(disk, words, position % blocks, blocks);
    if (found === undefined) continue;
    const { sequence, durableThrough } = words.recordOf(found);
    if (sequence > missing && durableThrough >= missing) {
      return `JOURNAL_DAMAGED: record ${sequence} knows record ${missing} as durable`;
    }
  }
  return {
    slot: disk.slots[newer]!,
    live,
    headLog,
    lastSequence: chainEnd.sequence,
    claimedSequence: claimed,
    claimedLog,
    values,
  };
}

/** The number of the record that stands at a position as a whole, wrapped. */
function wholeRecord(disk: Disk, words: Vocabulary, position: number, room: number): number | undefined {
  const head = recordInBlock(disk.ring[position]!);
  if (head === undefined || head.block !== 0) return undefined;
  const record = words.recordOf(head.record);
  if (record.position !== position || record.blocks > room) return undefined;
  for (let block = 1; block < record.blocks; block++) {
    const there = recordInBlock(disk.ring[(position + block) % disk.ring.length]!);
    if (there === undefined || there.record !== head.record || there.block !== block) return undefined;
  }
  return head.record;
}

/** What is wrong with a recovered log; undefined where all is as promised. */
export function judge(before: State, disk: Disk, log: ModelLog, words: Vocabulary): string | undefined {
  const { lineage, acknowledged } = before;
  if (log.lastSequence < acknowledged) {
    return `record ${acknowledged} was acknowledged, and the log ends with ${log.lastSequence}`;
  }
  for (const { record } of log.live) {
    const { sequence } = words.recordOf(record);
    if (lineage[sequence - 1] !== record) return `record ${sequence} of another lap or life is in the log`;
  }
  const expected = disk.cells.map(() => 0);
  for (const record of lineage.slice(0, log.lastSequence)) {
    const { cell, value } = words.recordOf(record);
    expected[cell] = value;
  }
  for (const [cell, inPlace] of disk.cells.entries()) {
    const value = log.values[cell] === 0 ? inPlace : log.values[cell];
    if (value !== expected[cell]) return `cell ${cell} reads ${value} and should read ${expected[cell]}`;
  }
  return undefined;
}

/** The writer that opens on a recovered log: `LogSpace` and the engine as their constructors leave them. */
export function opened(before: State, log: ModelLog, words: Vocabulary, phase: Phase, salt: number): State {
  const slot = words.slotOf(log.slot);
  return {
    ...before,
    phase,
    salt,
    lifePending: true,
    live: log.live,
    tail: {
      sequence: slot.tailSequence - 1,
      chain: slot.tailChain,
      salt: slot.tailSalt,
      endLog: slot.tailPosition,
    },
    headLog: log.headLog,
    freedLog: slot.tailPosition,
    freedBySlot: slot.tailPosition,
    claimedLog: log.claimedLog,
    claimedBySlot: log.claimedLog,
    slot: log.slot,
    slotDue: false,
    slotAtFlush: noFlush,
    durableSequence: log.lastSequence,
    claimedSequence: log.claimedSequence,
    active: log.values,
    round: undefined,
    flushing: undefined,
    lineage: before.lineage.slice(0, log.lastSequence),
  };
}
