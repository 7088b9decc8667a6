/**
 * What a crash may leave of a device, from the log of a `RecordingDevice`.
 *
 * Storage keeps sectors of 512 bytes whole and nothing else: of every sector it keeps the version that the last
 * completed flush covered, or any that was written later, whatever it keeps of other sectors. The file is as
 * long as at that flush, or as any later operation made it, and what a shorter file cuts off is lost.
 *
 * A write that failed may have landed in any part. What a flush that failed was to make durable is in doubt for good:
 * as in an operating system that marks the pages clean all the same, a later flush does not cover it.
 *
 * Each write makes a new version of each sector that it touches, with the whole sector's bytes as a reader
 * would have seen them: two writes of parts of one sector do not come apart.
 */
import { MemoryDevice, type RecordedOperation } from '@qcow2/block-device';
import type { Random } from '../../support/random.ts';

export const sectorBytes = 512;

interface Version {
  readonly bytes: Uint8Array;
  /** Serial of the operation that wrote it; -1: it stood there at the start. */
  readonly serial: number;
}

interface Sector {
  versions: Version[];
}

/** How a state is drawn from all that may be. */
export type Keeping =
  | 'nothing'
  | 'everything'
  | 'sectors'
  | 'operations'
  | 'one lost'
  | 'one kept'
  | 'by event';

export const keepings: readonly Keeping[] = [
  'nothing',
  'everything',
  'sectors',
  'operations',
  'one lost',
  'one kept',
  'by event',
];

/** Walks a log forward in time, and draws states on the way. */
export class CrashStates {
  readonly #log: readonly RecordedOperation[];
  readonly #sectors = new Map<number, Sector>();
  /** A failed flush may have dropped what it was to make durable: reads show it, and no later flush saves it. */
  readonly #doomed = new Set<number>();
  /** Started and not yet covered by a completed flush. */
  #pending = new Map<number, RecordedOperation>();
  #next = 0;
  #time = 0;
  #durableSizeBytes: number;
  #sizeBytes: number;
  #flushes: RecordedOperation[] = [];

  /** @param start the device as it was when the log began, durable as a whole */
  constructor(start: MemoryDevice, log: readonly RecordedOperation[]) {
    this.#log = log;
    this.#durableSizeBytes = start.sizeBytes;
    this.#sizeBytes = start.sizeBytes;
    const bytes = start.snapshot();
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      const sector = new Uint8Array(sectorBytes);
      sector.set(bytes.subarray(at, at + sectorBytes));
      if (sector.some((byte) => byte !== 0)) {
        this.#sectors.set(at / sectorBytes, { versions: [{ bytes: sector, serial: -1 }] });
      }
    }
  }

  /** Go on to a moment: all that started or completed before it has. */
  advance(time: number): void {
    this.#time = time;
    for (; this.#next < this.#log.length && this.#log[this.#next]!.startedAt < time; this.#next++) {
      const operation = this.#log[this.#next]!;
      // A flush that completed before this one started takes effect before it.
      this.#completeFlushes(operation.startedAt);
      this.#start(operation);
    }
    this.#completeFlushes(time);
  }

  /** How many operations may still be lost. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  draw(random: Random, keeping: Keeping): MemoryDevice {
    const serials = [...this.#pending.keys()];
    const events = [...new Set(serials.map((serial) => this.#pending.get(serial)!.event))];
    const one = serials.length > 0 ? random.pick(serials) : -1;
    const chosenEvent = events.length > 0 ? random.pick(events) : undefined;
    const inverted = random.below(2) === 0;
    const coin = new Map(serials.map((serial) => [serial, random.below(2) === 0]));
    const keeps = (serial: number): boolean => {
      if (serial < 0 || !this.#pending.has(serial)) return true;
      switch (keeping) {
        case 'nothing':
          return false;
        case 'everything':
          return true;
        case 'operations':
          return coin.get(serial)!;
        case 'one lost':
          return serial !== one;
        case 'one kept':
          return serial === one;
        case 'by event':
          return (this.#pending.get(serial)!.event === chosenEvent) !== inverted;
        case 'sectors':
          return random.below(2) === 0;
      }
    };
    const device = new MemoryDevice({ sizeBytes: this.#drawSize(keeps) });
    for (const [index, { versions }] of this.#sectors) {
      const at = index * sectorBytes;
      if (at >= device.sizeBytes) continue;
      let kept = versions[0]!;
      for (const version of versions.slice(1)) if (keeps(version.serial)) kept = version;
      device.write(at, kept.bytes.subarray(0, Math.min(sectorBytes, device.sizeBytes - at)));
    }
    return device;
  }

  #drawSize(keeps: (serial: number) => boolean): number {
    let size = this.#durableSizeBytes;
    for (const [serial, operation] of this.#pending) {
      if (!keeps(serial)) continue;
      if (operation.kind === 'resize') size = Math.max(size, operation.sizeBytes);
      if (operation.kind === 'write') size = Math.max(size, operation.offset + operation.bytes.length);
    }
    return size;
  }

  #start(operation: RecordedOperation): void {
    if (operation.kind === 'flush') {
      this.#flushes.push(operation);
      return;
    }
    this.#pending.set(operation.serial, operation);
    if (operation.kind === 'resize') this.#sizeBytes = Math.max(this.#sizeBytes, operation.sizeBytes);
    if (operation.kind === 'write') this.#write(operation.offset, operation.bytes, operation.serial);
    if (operation.kind === 'write_zeroes') {
      this.#write(operation.offset, new Uint8Array(operation.lengthBytes), operation.serial);
    }
  }

  #write(offset: number, bytes: Uint8Array, serial: number): void {
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.length);
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      const inSector = at % sectorBytes;
      const length = Math.min(bytes.length - done, sectorBytes - inSector);
      const index = (at - inSector) / sectorBytes;
      let sector = this.#sectors.get(index);
      if (sector === undefined) {
        sector = { versions: [{ bytes: new Uint8Array(sectorBytes), serial: -1 }] };
        this.#sectors.set(index, sector);
      }
      const content = sector.versions.at(-1)!.bytes.slice();
      content.set(bytes.subarray(done, done + length), inSector);
      sector.versions.push({ bytes: content, serial });
      done += length;
    }
  }

  /** Flushes that have completed by then make durable what completed before they started. */
  #completeFlushes(time: number): void {
    const done = this.#flushes.filter((flush) => (flush.completedAt ?? Number.POSITIVE_INFINITY) < time);
    if (done.length === 0) return;
    this.#flushes = this.#flushes.filter((flush) => !done.includes(flush));
    const covered = new Set<number>();
    for (const flush of done) {
      for (const [serial, operation] of this.#pending) {
        if ((operation.completedAt ?? Number.POSITIVE_INFINITY) >= flush.startedAt) continue;
        if (flush.failed) this.#doomed.add(serial);
        else if (!operation.failed && !this.#doomed.has(serial)) covered.add(serial);
      }
    }
    for (const serial of covered) this.#makeDurable(this.#pending.get(serial)!);
    for (const serial of covered) this.#pending.delete(serial);
    for (const sector of this.#sectors.values()) {
      let floor = 0;
      for (const [i, { serial }] of sector.versions.entries()) if (covered.has(serial)) floor = i;
      if (floor > 0) sector.versions = sector.versions.slice(floor);
    }
  }

  #makeDurable(operation: RecordedOperation): void {
    let end = 0;
    if (operation.kind === 'resize') end = operation.sizeBytes;
    if (operation.kind === 'write') end = operation.offset + operation.bytes.length;
    this.#durableSizeBytes = Math.max(this.#durableSizeBytes, end);
  }

  get time(): number {
    return this.#time;
  }
}
