/**
 * Inspection: what stands in a journal, for people who want to see it. Both slots, every record of the chain,
 * where and why the chain ends, what recovery would say of it, and how many valid records stand elsewhere.
 *
 * It follows the chain with recovery's own steps (`chain.ts`). Where recovery refuses, inspection takes note
 * and goes on as far as anything can be read: a damaged journal is what it is there for. With one slot
 * damaged it starts from the other one.
 *
 * Nothing is written. Held are the reader's window and one record, whatever the ring's size: records go to a
 * visitor one by one.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import {
  type ChainEnd,
  chainEndOfRecord,
  chainEndOfSlot,
  type JournalRecord,
  type JournalSlot,
  journalGeometry,
  type RecordHeader,
} from '@qcow2/codec/journal/v1';
import { journalV1Limits, Qcow2Error } from '@qcow2/spec';
import { type AreaLocation, readSlot, readSlots, ringOf, slotHostOffset } from './area.ts';
import {
  type ChainStop,
  type ChainUse,
  contradicts,
  damageByRecord,
  damageBySlot,
  decodeNext,
  readNext,
  refuseRecord,
  searchOutside,
  searchReach,
} from './chain.ts';
import { GatheredIntents, type RecoveredIntent, unknownIntent } from './gathered-intents.ts';
import { type RingGeometry, RingReader } from './ring.ts';

/** One of the two slots, as it stands. */
export interface InspectedSlot {
  readonly index: 0 | 1;
  /** Where it stands; of slot 1 a guess where neither slot can be decoded. */
  readonly hostOffset: number;
  readonly slot?: JournalSlot;
  /** Why it is not valid. */
  readonly error?: Qcow2Error;
}

export interface InspectedSlots {
  readonly slots: readonly [InspectedSlot, InspectedSlot];
  /** The index of the slot that the chain is followed from; absent where none is valid. */
  readonly from?: 0 | 1;
  readonly ring?: RingGeometry;
  /** Why recovery would not go further. */
  readonly error?: Qcow2Error;
}

/** A record of the chain; its checksum is right. */
export interface InspectedRecord {
  readonly hostOffset: number;
  readonly header: RecordHeader;
  /** Absent where the record breaks a clause. Its bytes are lent until the visitor returns. */
  readonly record?: JournalRecord;
  /** Why recovery would refuse the record. */
  readonly error?: Qcow2Error;
}

/** Who is shown what is found, in this order. What it returns is waited for. */
export interface LogVisitor {
  slots(found: InspectedSlots): void | Promise<void>;
  record(found: InspectedRecord): void | Promise<void>;
}

/** Where the chain ends. */
export interface InspectedEnd {
  /** The sequence that the next record would have. */
  readonly sequence: number;
  /** Its place, in the ring and in the image. */
  readonly position: number;
  readonly hostOffset: number;
  /** `unreadable`: the device failed, with `error` of the log. */
  readonly stop: ChainStop | 'unreadable';
}

export interface InspectedLog {
  readonly records: number;
  /** Bytes of the ring that they take. */
  readonly usedBytes: number;
  /** Absent where there is no valid slot to start from. */
  readonly end?: InspectedEnd;
  /** Valid records of this journal outside the chain: of earlier laps of the ring, or of abandoned lives. */
  readonly staleRecords: number;
  /** Operations that are under way behind the last record. */
  readonly openIntents: readonly RecoveredIntent[];
  /** What recovery would throw; absent where it would go through. */
  readonly error?: Qcow2Error;
}

/**
 * Go through a journal without changing anything, and without failing for what stands there.
 *
 * @param intentKinds kinds of intents that the client serves: others, where open, are what recovery refuses
 * @throws what the visitor throws, and nothing for a journal that is damaged or can not be read
 */
export function* inspectLog(
  device: BlockDevice,
  area: AreaLocation,
  visitor: LogVisitor,
  intentKinds: ReadonlySet<number> = new Set(),
): Task<InspectedLog> {
  const found = yield* inspectSlots(device, area);
  yield* wait(visitor.slots(found));
  const slot = found.from === undefined ? undefined : found.slots[found.from].slot;
  if (slot === undefined || found.ring === undefined) {
    return { records: 0, usedBytes: 0, staleRecords: 0, openIntents: [], ...orError(found.error) };
  }
  const walk = new ChainWalk(device, area, found.ring, slot, visitor);
  const chain = yield* walk.follow();
  const outside = yield* walk.lookAround(chain);
  // Recovery throws the first of these that it meets.
  return {
    records: chain.records,
    usedBytes: chain.usedBytes,
    end: walk.describe(chain),
    staleRecords: outside.count,
    openIntents: chain.openIntents,
    ...orError(found.error ?? chain.error ?? outside.error ?? unknownIntent(chain.openIntents, intentKinds)),
  };
}

function orError(error: Qcow2Error | undefined): { readonly error?: Qcow2Error } {
  return error === undefined ? {} : { error };
}

function* inspectSlots(device: BlockDevice, area: AreaLocation): Task<InspectedSlots> {
  const first = yield* inspectSlot(device, area, 0, area.hostOffset);
  const second = yield* inspectSecondSlot(device, area, first.slot);
  const verdict = yield* outcomeOf(readSlots(device, area));
  const from = newerOf(first.slot, second.slot);
  const slot = from === undefined ? undefined : (from === 0 ? first : second).slot;
  return {
    slots: [first, second],
    ...(from === undefined || slot === undefined
      ? {}
      : { from, ring: ringOf(area, 2 ** slot.blockSizeOrder) }),
    ...orError('error' in verdict ? verdict.error : undefined),
  };
}

function newerOf(first: JournalSlot | undefined, second: JournalSlot | undefined): 0 | 1 | undefined {
  if (first === undefined) return second === undefined ? undefined : 1;
  return second !== undefined && second.generation > first.generation ? 1 : 0;
}

function* inspectSlot(
  device: BlockDevice,
  area: AreaLocation,
  index: 0 | 1,
  hostOffset: number,
): Task<InspectedSlot> {
  const outcome = yield* outcomeOf(readSlot(device, area, hostOffset));
  return 'error' in outcome
    ? { index, hostOffset, error: outcome.error }
    : { index, hostOffset, slot: outcome.value };
}

/**
 * Where slot 1 stands only the block size tells, hence slot 0. Where that one is not valid, every place is
 * tried: recovery, which must not guess, does not.
 */
function* inspectSecondSlot(
  device: BlockDevice,
  area: AreaLocation,
  first: JournalSlot | undefined,
): Task<InspectedSlot> {
  if (first !== undefined) {
    return yield* inspectSlot(device, area, 1, slotHostOffset(area, 2 ** first.blockSizeOrder, 1));
  }
  const strides = new Set<number>();
  for (let order = journalV1Limits.minBlockSizeOrder; order <= journalV1Limits.maxBlockSizeOrder; order++) {
    strides.add(journalGeometry(area.lengthBytes, 2 ** order).slotStrideBytes);
  }
  let nearest: InspectedSlot | undefined;
  for (const stride of strides) {
    const found = yield* inspectSlot(device, area, 1, area.hostOffset + stride);
    if (found.slot !== undefined) return found;
    nearest ??= found;
  }
  return nearest ?? { index: 1, hostOffset: area.hostOffset };
}

/** What a task returns, or the error of ours that it throws. */
function* outcomeOf<T>(task: Task<T>): Task<{ readonly value: T } | { readonly error: Qcow2Error }> {
  try {
    return { value: yield* task };
  } catch (error) {
    if (error instanceof Qcow2Error) return { error };
    throw error;
  }
}

interface FollowedChain extends ChainUse {
  readonly end: ChainEnd;
  readonly stop: ChainStop | 'unreadable';
  readonly records: number;
  readonly openIntents: readonly RecoveredIntent[];
  /** The first thing that recovery would refuse. */
  readonly error?: Qcow2Error | undefined;
}

class ChainWalk {
  readonly #device: BlockDevice;
  readonly #area: AreaLocation;
  readonly #ring: RingGeometry;
  readonly #slot: JournalSlot;
  readonly #visitor: LogVisitor;
  readonly #reader: RingReader;

  constructor(
    device: BlockDevice,
    area: AreaLocation,
    ring: RingGeometry,
    slot: JournalSlot,
    visitor: LogVisitor,
  ) {
    this.#device = device;
    this.#area = area;
    this.#ring = ring;
    this.#slot = slot;
    this.#visitor = visitor;
    this.#reader = new RingReader(device, ring);
  }

  /** Show the records from the tail on, those too that recovery would refuse. */
  *follow(): Task<FollowedChain> {
    const ring = this.#ring;
    const intents = new GatheredIntents(ring);
    let end = chainEndOfSlot(this.#slot);
    let records = 0;
    let usedBytes = 0;
    let claimedBytes = 0;
    let lastBeginBytes = 0;
    let error: Qcow2Error | undefined;
    for (;;) {
      const read = yield* outcomeOf(readNext(this.#reader, ring, end, ring.lengthBytes - usedBytes));
      const openIntents = intents.open;
      const chain = { end, records, usedBytes, claimedBytes, lastBeginBytes, openIntents };
      if ('error' in read) return { ...chain, stop: 'unreadable', error: error ?? read.error };
      const next = read.value;
      if ('stop' in next) return { ...chain, stop: next.stop, error };
      const shown = this.#judge(next.header, next.bytes, intents);
      error ??= shown.error;
      yield* wait(this.#visitor.record(shown));
      records++;
      lastBeginBytes = usedBytes;
      usedBytes += next.header.lengthBlocks * ring.blockBytes;
      if (next.header.sequence <= this.#slot.durableSequence) claimedBytes = usedBytes;
      end = chainEndOfRecord(next.header, ring.blockBytes, ring.lengthBytes);
    }
  }

  #judge(header: RecordHeader, bytes: Uint8Array, intents: GatheredIntents): InspectedRecord {
    const hostOffset = this.#ring.hostOffset + header.position;
    let record: JournalRecord | undefined;
    try {
      record = decodeNext(this.#ring, header, bytes);
      refuseRecord(record, this.#area, this.#ring, this.#device.sizeBytes);
      intents.note(record);
      return { hostOffset, header, record };
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      return { hostOffset, header, error, ...(record === undefined ? {} : { record }) };
    }
  }

  /** Count the valid records outside the chain, and see whether one of them proves its end to be damage. */
  *lookAround(chain: FollowedChain): Task<{ readonly count: number; readonly error?: Qcow2Error }> {
    const { end, usedBytes } = chain;
    const rest = this.#ring.lengthBytes - usedBytes;
    const reach = searchReach(this.#ring, chain);
    let count = 0;
    let witness: RecordHeader | undefined;
    const ours = (header: RecordHeader): boolean => header.journalId === this.#slot.journalId;
    const search = searchOutside(this.#reader, this.#ring, end, rest, ours, (header, behindBytes) => {
      count++;
      if (witness === undefined && behindBytes < reach && contradicts(end, header)) witness = header;
      return false;
    });
    const outcome = yield* outcomeOf(search);
    const bySlot = damageBySlot(this.#ring, this.#slot, end);
    const byRecord = witness === undefined ? undefined : damageByRecord(this.#ring, end, witness);
    return { count, ...orError(bySlot ?? byRecord ?? ('error' in outcome ? outcome.error : undefined)) };
  }

  describe({ end, stop }: FollowedChain): InspectedEnd {
    const position = end.endPosition;
    return { sequence: end.sequence + 1, position, hostOffset: this.#ring.hostOffset + position, stop };
  }
}
