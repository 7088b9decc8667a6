/**
 * Run a workload on a system and keep everything that the crash model asks for: the device operations in
 * their order and time, and what the guest asked for and got acknowledged, on the same clock.
 *
 * The device's clock is that of RecordingDevice: it moves whenever a device operation starts or completes.
 * A guest event is stamped with the clock's reading: it happened after all device events before that time,
 * and before all from that time on.
 *
 * For a disturbed workload the device answers some requests with promises and completes writes that overlap in time
 * in an order drawn from the seed, so that a driver that does not wait where it has to shows it.
 */
import { type BlockDevice, type RecordedOperation, RecordingDevice } from '@qcow2/block-device';
import { hashText, SeededRandom } from '@qcow2/seeded';
import { InvariantError } from '@qcow2/spec';
import { expectFound } from './bitmap-oracle.ts';
import { DelayingDevice } from './delaying-device.ts';
import { changeDisk, type DiskOperation, isDiskOperation } from './disk-changes.ts';
import { type AllowedContent, GuestOracle } from './guest-oracle.ts';
import type { DeviceMutation } from './mutation.ts';
import { showBytes } from './recovery.ts';
import { sectorBytes } from './sector.ts';
import { SectorDevice } from './sector-device.ts';
import type { SectorImage } from './sector-image.ts';
import type { BitmapState, OpenSystem, SystemUnderTest } from './system-under-test.ts';
import {
  compressibleContentOf,
  contentOf,
  type Damage,
  type GuestOperation,
  mostGrownClusters,
  type Workload,
} from './workload.ts';

/** From this device time on, these are the contents that a crash may leave the guest with. */
export interface AllowedFrom {
  readonly deviceTime: number;
  readonly allowed: AllowedContent;
  /** The guest event that changed it took something away: a flush was acknowledged. */
  readonly stricter: boolean;
}

export interface Recording {
  readonly base: SectorImage;
  readonly log: readonly RecordedOperation[];
  readonly allowed: readonly AllowedFrom[];
  /** Device time at which each operation of the workload was started. */
  readonly operationTimes: readonly number[];
  readonly endTime: number;
}

export interface RecordOptions {
  /** The guest's content in `base`. */
  readonly baseContent: Uint8Array;
  /** The snapshots in `base`, oldest first; undefined for a system that has none. */
  readonly baseSnapshots?: readonly string[] | undefined;
  /** What `base` stands on; undefined for a system of which that can not be changed. */
  readonly baseBacking?: string | undefined;
  /** The bitmaps in `base`; undefined for a system that has none. */
  readonly baseBitmaps?: readonly BitmapState[] | undefined;
  readonly mutation?: DeviceMutation | undefined;
  /** A second life of `base`: it has bytes and salts of its own. */
  readonly isLater?: boolean;
}

/** Operations of a second life count from here: what they write is not what an earlier life wrote. */
const laterStamp = 0x1000;

/** @throws what the system throws: a workload without faults must not fail */
export async function record(
  system: SystemUnderTest,
  base: SectorImage,
  workload: Workload,
  options: RecordOptions,
): Promise<Recording> {
  const run = new Run(system, base, workload, options);
  await run.all();
  return run.recording();
}

class Run {
  readonly #system: SystemUnderTest;
  readonly #base: SectorImage;
  readonly #workload: Workload;
  readonly #options: RecordOptions;
  readonly #device: RecordingDevice;
  readonly #oracle: GuestOracle;
  readonly #allowed: AllowedFrom[] = [];
  readonly #operationTimes: number[] = [];
  readonly #random: SeededRandom;
  readonly #firstStamp: number;
  readonly #disk: SectorDevice;
  #growing: Promise<void> | undefined;

  constructor(system: SystemUnderTest, base: SectorImage, workload: Workload, options: RecordOptions) {
    this.#system = system;
    this.#base = base;
    this.#workload = workload;
    this.#options = options;
    const disk = new SectorDevice(base.clone());
    this.#disk = disk;
    const order = new SeededRandom(hashText('order'), hashText(workload.name));
    this.#device = new RecordingDevice(
      workload.disturbed ? new DelayingDevice(disk, order, workload.isWatched) : disk,
    );
    this.#oracle = new GuestOracle(options.baseContent);
    if (options.baseSnapshots !== undefined) this.#oracle.allowSnapshots(options.baseSnapshots);
    if (options.baseBacking !== undefined) this.#oracle.allowBacking({ named: options.baseBacking });
    if (options.baseBitmaps !== undefined && system.bitmaps !== undefined) {
      this.#oracle.allowBitmaps(system.bitmaps.promise, expectFound(options.baseBitmaps));
    }
    const later = options.isLater ? base.hash() : undefined;
    this.#random = later
      ? new SeededRandom(hashText('later'), later.low, later.high)
      : new SeededRandom(hashText('recording'));
    this.#firstStamp = options.isLater ? laterStamp : 0;
    this.#note(false);
  }

  async all(): Promise<void> {
    await this.#noteDangers();
    let system = await this.#open();
    let underWay: Promise<void>[] = [];
    const { operations } = this.#workload;
    for (const [index, operation] of operations.entries()) {
      this.#operationTimes.push(this.#device.now);
      if (operation.kind === 'damage') {
        await Promise.all(underWay);
        underWay = [];
        if (operations[index - 1]?.kind !== 'damage') await this.#leave(system);
        await this.#damage(operation.damage);
        if (operations[index + 1]?.kind !== 'damage') system = await this.#open();
        continue;
      }
      if (operation.kind === 'reopen' || operation.kind === 'kill') {
        await Promise.all(underWay);
        underWay = [];
        if (this.#workload.concurrency === 1) await this.#readAll(system);
        if (operation.kind === 'reopen') await this.#close(system);
        else this.#kill(system);
        system = await this.#open();
        if (operation.kind === 'kill') await this.#findBitmaps(system);
        continue;
      }
      const takesBitmaps = this.#system.bitmaps !== undefined;
      if (isDiskOperation(operation) || (operation.kind === 'grow' && takesBitmaps)) {
        await Promise.all(underWay);
        underWay = [];
        const note = (stricter: boolean) => this.#note(stricter);
        await changeDisk(system, operation, index, { system: this.#system, oracle: this.#oracle, note });
        if (operation.kind !== 'rebase') continue;
        // What it shows of the old one is not what is written over from now on.
        await this.#close(system);
        system = await this.#open();
        continue;
      }
      underWay.push(this.#perform(system, operation, index));
      if (underWay.length >= this.#workload.concurrency) {
        await Promise.all(underWay);
        underWay = [];
        await system.settle();
        if (operation.kind === 'flush' && this.#workload.concurrency === 1) await this.#readAll(system);
      }
    }
    await Promise.all(underWay);
    this.#operationTimes.push(this.#device.now);
    await this.#readAll(system);
    await this.#close(system);
  }

  /** Without closing it: a journal has what was flushed. */
  async #leave(system: OpenSystem): Promise<void> {
    await this.#makeDurable(() => system.guest.flush());
    system.abandon();
  }

  /** Whatever comes, the guest is to see what entries lead to now, and nothing is to become more dangerous than it is. */
  async #damage(damage: Damage): Promise<void> {
    const { repair } = this.#system;
    if (repair === undefined) throw new InvariantError('a workload damages a system that is not repaired');
    const after = new SectorDevice(this.#disk.image.clone());
    await repair.damage(after, damage);
    const dangers = await repair.dangers(after);
    const token = this.#oracle.beginReplace(await repair.look(after));
    this.#oracle.allowDangers([...this.#oracle.dangers, ...dangers]);
    this.#note(false);
    await repair.damage(this.#device, damage);
    this.#oracle.endReplace(token);
    this.#oracle.allowDangers(dangers);
    this.#note(true);
  }

  recording(): Recording {
    const log = this.#options.mutation?.apply(this.#device.log) ?? this.#device.log;
    return {
      base: this.#base,
      log,
      allowed: this.#allowed,
      operationTimes: this.#operationTimes,
      endTime: this.#device.now,
    };
  }

  async #open(): Promise<OpenSystem> {
    const system = await this.#system.open(this.#device, {
      random: (into) => this.#random.fill(into),
      readOnly: false,
    });
    if (this.#system.repair !== undefined) {
      this.#oracle.allowDangers([]);
      this.#note(true);
    }
    return system;
  }

  /** A later life may begin with an image that an earlier one has not repaired. */
  async #noteDangers(): Promise<void> {
    const { repair } = this.#system;
    if (repair === undefined) return;
    this.#oracle.allowDangers(await repair.dangers(new SectorDevice(this.#base.clone())));
    this.#note(false);
  }

  /** What lives must show what was written, before any crash. @throws INVARIANT */
  async #readAll({ guest, bitmaps }: OpenSystem): Promise<void> {
    const content = new Uint8Array(guest.sizeBytes);
    await guest.read(0, content);
    const sector = this.#oracle.firstMisread(content);
    if (sector !== undefined) {
      const found = showBytes(content, sector * sectorBytes);
      throw new InvariantError(`guest sector ${sector} reads as ${found} before any crash`);
    }
    const misread = bitmaps && this.#oracle.misreadBitmaps(content, await bitmaps.list());
    if (misread !== undefined) throw new InvariantError(`${misread}, before any crash`);
  }

  async #findBitmaps({ bitmaps }: OpenSystem): Promise<void> {
    if (bitmaps === undefined) return;
    this.#oracle.findBitmaps(await bitmaps.list());
    this.#note(false);
  }

  /** A clean close makes durable what was written, as a flush does. */
  async #close(system: OpenSystem): Promise<void> {
    await this.#comeToRest(() => system.close());
  }

  async #comeToRest(what: () => void | Promise<void>): Promise<void> {
    await this.#makeDurable(what, (startedAt) => this.#oracle.endRest(startedAt));
  }

  /** Whatever was written before is durable when this is done. */
  async #makeDurable(what: () => void | Promise<void>, andThen?: (startedAt: number) => void): Promise<void> {
    const startedAt = this.#oracle.beginFlush();
    await what();
    this.#oracle.endFlush(startedAt);
    andThen?.(startedAt);
    this.#note(true);
  }

  /** Each sector holds something that it held while the read was under way. @throws INVARIANT */
  async #read(guest: BlockDevice, offset: number, lengthBytes: number): Promise<void> {
    const content = new Uint8Array(lengthBytes);
    const token = this.#oracle.beginRead(offset, lengthBytes);
    await guest.read(offset, content);
    const found = this.#oracle.endRead(token, content);
    if (found === undefined) return;
    throw new InvariantError(
      `a read of guest sector ${found.sector} gave ${showBytes(found.bytes)} before any crash`,
    );
  }

  #kill(system: OpenSystem): void {
    system.abandon();
    this.#oracle.kill();
    this.#note(false);
  }

  async #perform(
    system: OpenSystem,
    operation: Exclude<GuestOperation, DiskOperation | { kind: 'reopen' | 'kill' | 'damage' }>,
    index: number,
  ): Promise<void> {
    const { guest } = system;
    if (operation.kind === 'grow') return this.#grow(system, operation.clusters);
    if (operation.kind === 'tail') {
      const { lengthBytes } = operation;
      return this.#write(system, guest.sizeBytes - lengthBytes, lengthBytes, index, false);
    }
    if (operation.kind === 'flush') return this.#makeDurable(() => guest.flush());
    if (operation.kind === 'rest') return this.#comeToRest(() => system.rest());
    if (operation.kind === 'resize-journal') {
      if (system.resizeJournal === undefined)
        throw new InvariantError('a workload resizes the journal of a system that has none');
      return this.#makeDurable(() => system.resizeJournal?.());
    }
    if (operation.kind === 'refcount-width') {
      if (system.changeWidth === undefined)
        throw new InvariantError('a workload changes the refcounts of a system that has none');
      return this.#makeDurable(() => system.changeWidth?.());
    }
    const { kind, offset, lengthBytes } = operation;
    // The disk has become too small for it.
    if (offset + lengthBytes > guest.sizeBytes) return;
    if (kind === 'read') return this.#read(guest, offset, lengthBytes);
    if (kind === 'discard') {
      const token = this.#oracle.beginDiscard(offset, lengthBytes);
      this.#note(false);
      await guest.discard(offset, lengthBytes);
      this.#oracle.endWrite(token, false);
      return;
    }
    if (kind === 'compress') return this.#compress(system, offset, lengthBytes, index);
    if (kind === 'write') return this.#write(system, offset, lengthBytes, index, operation.fua);
    const token = this.#oracle.beginWrite(offset, lengthBytes, undefined);
    this.#note(false);
    await guest.writeZeroes(offset, lengthBytes, { mayUnmap: operation.unmap });
    this.#oracle.endWrite(token, false);
  }

  async #write(
    { guest, copy }: OpenSystem,
    offset: number,
    lengthBytes: number,
    index: number,
    fua: boolean,
  ): Promise<void> {
    const bytes = contentOf(this.#firstStamp + index, offset, lengthBytes);
    const token = this.#oracle.beginWrite(offset, lengthBytes, bytes);
    this.#note(false);
    // A copy says nothing of durability, and may end early. Without any, the write comes at once: requests that are under way
    // together begin together.
    const copied = fua || copy === undefined ? 0 : await copy(offset, bytes);
    if (copied < lengthBytes) await guest.write(offset + copied, bytes.subarray(copied), { fua });
    this.#oracle.endWrite(token, fua);
    if (fua) this.#note(true);
  }

  async #compress(system: OpenSystem, offset: number, lengthBytes: number, index: number): Promise<void> {
    if (system.compress === undefined) throw new InvariantError('a workload compresses where nothing can be');
    const bytes = compressibleContentOf(index, offset, lengthBytes);
    const token = this.#oracle.beginWrite(offset, lengthBytes, bytes);
    this.#note(false);
    await system.compress(offset, bytes);
    this.#oracle.endWrite(token, false);
  }

  async #grow(system: OpenSystem, clusters: number): Promise<void> {
    const { guestBytes, clusterBytes } = this.#system;
    // One growth at a time: how far one goes depends on the one before. Writes may be under way meanwhile.
    while (this.#growing !== undefined) await this.#growing;
    const before = system.guest.sizeBytes;
    const sizeBytes = before + clusters * clusterBytes;
    if (sizeBytes > guestBytes + mostGrownClusters * clusterBytes) return;
    if (system.grow === undefined) throw new InvariantError('a workload grows a disk that can not grow');
    const token = this.#oracle.beginGrow(before, sizeBytes);
    this.#note(false);
    const growing = Promise.resolve(system.grow(sizeBytes));
    this.#growing = growing
      .catch(() => undefined)
      .finally(() => {
        this.#growing = undefined;
      });
    await growing;
    this.#oracle.endGrow(token);
  }

  #note(stricter: boolean): void {
    this.#allowed.push({ deviceTime: this.#device.now, allowed: this.#oracle.allowed(), stricter });
  }
}
