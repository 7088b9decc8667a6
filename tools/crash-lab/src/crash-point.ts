/**
 * The moments of a recording at which a crash is looked at, and what stands on the disk at each: what is
 * durable, and the writes that may or may not have got there.
 *
 * Not every moment is needed. As time passes, the set of writes that may have reached the disk only grows,
 * and the set of contents that the guest may see only grows, until something is made durable: a device
 * flush (or FUA write) completes, or the guest is told that a flush of its own is done. So a crash anywhere
 * between two such moments leaves a state that a crash just before the second may leave as well, and is
 * judged there no more mildly. (Milder would be: content allowed at the second that was not at the first.
 * That is content which the guest had not yet written, and which therefore no sector could hold.) A crash
 * point is the moment just before something becomes durable or acknowledged, and the end of the recording.
 * A flush that is under way at a crash has made nothing certain: that is the crash point before it ends.
 */
import type { RecordedFlush, RecordedOperation } from '@qcow2/block-device';
import type { AllowedContent } from './guest-oracle.ts';
import type { AllowedFrom } from './recording.ts';
import { zeroSector } from './sector.ts';
import type { SectorImage } from './sector-image.ts';

/** A device operation that changes bytes or size. */
export type DeviceChange = Exclude<RecordedOperation, RecordedFlush>;

export interface CrashPoint {
  /** Number of the point in its recording, from 0. */
  readonly index: number;
  /** The crash comes before every device event from this time on. */
  readonly deviceTime: number;
  /** What is on the disk for certain. Not to be changed. */
  readonly durable: SectorImage;
  /** Changes that may be there in whole, in part, or not at all; in the order in which they were started. */
  readonly pending: readonly DeviceChange[];
  /** What the guest may see. Absent where the recording had no guest (a recovery). */
  readonly allowed: AllowedContent | undefined;
}

export interface CrashTimeline {
  readonly base: SectorImage;
  readonly log: readonly RecordedOperation[];
  readonly allowed: readonly AllowedFrom[];
}

type TimelineEvent =
  | { readonly kind: 'start'; readonly at: number; readonly change: DeviceChange }
  | {
      readonly kind: 'durable';
      readonly at: number;
      readonly covers: (change: DeviceChange) => boolean;
      /** Older changes that can no longer show, because all their bytes have been written over. */
      readonly hides: (change: DeviceChange) => boolean;
    }
  | { readonly kind: 'allowed'; readonly at: number; readonly entry: AllowedFrom };

/** All crash points, in order. */
export function* crashPoints(timeline: CrashTimeline): Generator<CrashPoint> {
  const durable = timeline.base.clone();
  let pending: DeviceChange[] = [];
  let allowed: AllowedContent | undefined;
  let index = 0;
  const point = (deviceTime: number): CrashPoint => ({
    index: index++,
    deviceTime,
    durable: durable.clone(),
    pending,
    allowed,
  });
  let now = 0;
  for (const event of eventsOf(timeline)) {
    now = event.at;
    if (event.kind === 'start') {
      pending = [...pending, event.change];
    } else if (event.kind === 'durable') {
      yield point(now);
      const { covers, hides } = event;
      for (const change of pending) if (covers(change)) applyChange(durable, change);
      pending = pending.filter((change) => !covers(change) && !hides(change));
    } else {
      if (event.entry.stricter) yield point(now);
      allowed = event.entry.allowed;
    }
  }
  yield point(now + 1);
}

function eventsOf(timeline: CrashTimeline): TimelineEvent[] {
  const events: TimelineEvent[] = [];
  for (const operation of timeline.log) {
    const { startedAt, completedAt } = operation;
    if (operation.kind !== 'flush') {
      events.push({ kind: 'start', at: startedAt, change: operation });
      const fua = (operation.kind === 'write' || operation.kind === 'write_zeroes') && operation.fua;
      if (fua && completedAt !== undefined && !operation.failed) {
        const covers = (change: DeviceChange) => change === operation;
        events.push({
          kind: 'durable',
          at: completedAt,
          covers,
          hides: (change) => isHidden(change, operation),
        });
      }
    } else if (completedAt !== undefined && !operation.failed) {
      const { range } = operation;
      const covers = (change: DeviceChange) =>
        change.completedAt !== undefined && change.completedAt < startedAt && isWithin(change, range);
      events.push({ kind: 'durable', at: completedAt, covers, hides: () => false });
    }
  }
  events.sort((left, right) => left.at - right.at);
  return mergeGuestEvents(events, timeline.allowed);
}

/** Whether a change lies within the range that a flush is for. Of two files on one disk the last one has the length. */
function isWithin(change: DeviceChange, range: RecordedFlush['range']): boolean {
  if (range === undefined) return true;
  const end = range.offset + range.lengthBytes;
  if (change.kind === 'resize') return end === Number.POSITIVE_INFINITY;
  return change.offset >= range.offset && endOf(change) <= end;
}

/** Guest events come before the device events of the same time, and keep their own order. */
function mergeGuestEvents(events: TimelineEvent[], allowed: readonly AllowedFrom[]): TimelineEvent[] {
  const merged: TimelineEvent[] = [];
  let next = 0;
  for (const entry of allowed) {
    while (next < events.length && events[next]!.at < entry.deviceTime) merged.push(events[next++]!);
    merged.push({ kind: 'allowed', at: entry.deviceTime, entry });
  }
  merged.push(...events.slice(next));
  return merged;
}

/** Whether `older` was done before `newer` began, and lies within it. */
function isHidden(older: DeviceChange, newer: DeviceChange): boolean {
  if (older.kind === 'resize' || newer.kind === 'resize') return false;
  if (older.completedAt === undefined || older.completedAt >= newer.startedAt) return false;
  return older.offset >= newer.offset && endOf(older) <= endOf(newer);
}

function endOf(change: Exclude<DeviceChange, { kind: 'resize' }>): number {
  return change.offset + (change.kind === 'write' ? change.bytes.length : change.lengthBytes);
}

/** Carry a change out on an image, whole. */
export function applyChange(image: SectorImage, change: DeviceChange): void {
  switch (change.kind) {
    case 'write':
      image.write(change.offset, change.bytes);
      break;
    case 'write_zeroes':
    case 'discard':
      image.write(change.offset, zeroBytes(change.lengthBytes));
      break;
    case 'resize':
      image.resize(change.sizeBytes);
      break;
  }
}

let zeros = new Uint8Array(zeroSector.bytes.length);

/** A shared buffer of zeros, not to be written to. */
export function zeroBytes(lengthBytes: number): Uint8Array {
  if (zeros.length < lengthBytes) zeros = new Uint8Array(lengthBytes);
  return zeros.subarray(0, lengthBytes);
}
