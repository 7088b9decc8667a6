/**
 * The journal engine alone as a system under test: the smallest client that uses all of it.
 *
 * The point is the small ring (14 blocks, or 62): it wraps every few flushes, so that the meeting of ring wrap, slot
 * update, write-back and reuse of ring space, which takes an image thousands of writes, happens within a
 * short workload. What the client does is what the driver does, reduced to sectors: guest
 * sectors are found through a map; a sector is settled into a place that nothing durable refers to, and
 * then mapped by a microtransaction; a place is free again when the mapping that left it is durable.
 *
 * Device: sector 0 is the header (the dirty flag), sector 1 the map (8 bytes for each guest sector: a place,
 * 0 for none, which reads as zeros), then the places, then the journal's area.
 */
import {
  type BlockDevice,
  type DeviceCapabilities,
  type Extent,
  Mutex,
  run,
  type Task,
  type WriteOptions,
  wait,
} from '@qcow2/block-device';
import {
  formatArea,
  type GuestWrite,
  type JournalClient,
  JournalEngine,
  reassertLog,
  recoverLog,
} from '@qcow2/journal';
import { FormatError, guestOffset, hostOffset, InvariantError } from '@qcow2/spec';
import { liveLogOf } from './live-log.ts';
import { sectorBytes } from './sector.ts';
import type {
  FillRandom,
  LiveLog,
  OpenSystem,
  OpenSystemOptions,
  SystemUnderTest,
} from './system-under-test.ts';

export interface EngineConfiguration {
  readonly name: string;
  readonly directBytes: number;
  readonly writeBackAt: number;
  readonly blockBytes: number;
}

const guestSectors = 8;
const placeCount = 48;
const mapOffset = sectorBytes;
const placesOffset = 2 * sectorBytes;
const areaOffset = placesOffset + placeCount * sectorBytes;
const area = { hostOffset: areaOffset, lengthBytes: 64 * 1024 } as const;
/** The largest blocks that the smallest area may have: 14 of them. */
const blockBytes = 4096;
const magic = 0x6d696e69;

export const engineConfigurations: readonly EngineConfiguration[] = [
  { name: 'engine', directBytes: 4096, writeBackAt: 0.25, blockBytes },
  { name: 'engine+eager', directBytes: 4096, writeBackAt: 0.01, blockBytes },
  { name: 'engine+direct', directBytes: 0, writeBackAt: 0.25, blockBytes },
  // Rounds that end when more than half of the ring is live, and so many blocks that the head can come near to what is freed.
  { name: 'engine+late', directBytes: 4096, writeBackAt: 0.35, blockBytes: 1024 },
];

export class EngineSystem implements SystemUnderTest {
  readonly guestBytes = guestSectors * sectorBytes;
  readonly clusterBytes = 2 * sectorBytes;
  readonly letters = 'swxozdfuck';
  readonly leaksAreFailures = true;
  readonly #configuration: EngineConfiguration;

  constructor(configuration: EngineConfiguration) {
    this.#configuration = configuration;
  }

  get name(): string {
    return this.#configuration.name;
  }

  async create(device: BlockDevice, random: FillRandom): Promise<void> {
    await device.write(0, headerSector(false));
    await device.write(mapOffset, new Uint8Array(sectorBytes));
    await run(formatArea(device, area, this.#configuration.blockBytes, random));
    await device.flush();
  }

  initialContent(): Uint8Array {
    return new Uint8Array(this.guestBytes);
  }

  async open(device: BlockDevice, options: OpenSystemOptions): Promise<OpenSystem> {
    const image = new SectorMapImage(device, this.#configuration);
    await run(image.load(options));
    return image;
  }

  async liveLog(device: BlockDevice): Promise<LiveLog | undefined> {
    const header = new Uint8Array(sectorBytes);
    await device.read(0, header);
    return new DataView(header.buffer).getUint32(4) === 0 ? undefined : liveLogOf(device, area);
  }

  async check(device: BlockDevice) {
    const header = new Uint8Array(2 * sectorBytes);
    await device.read(0, header);
    const view = new DataView(header.buffer);
    const findings: string[] = [];
    if (view.getUint32(0) !== magic || view.getUint32(4) !== 0) findings.push('the header is not clean');
    const places = Array.from({ length: guestSectors }, (_, sector) =>
      view.getUint32(mapOffset + 8 * sector + 4),
    );
    const used = places.filter((place) => place !== 0);
    if (new Set(used).size !== used.length) findings.push(`two sectors share a place: ${places.join(' ')}`);
    return { errors: findings.length, leaks: 0, findings };
  }
}

function headerSector(dirty: boolean): Uint8Array {
  const bytes = new Uint8Array(sectorBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic);
  view.setUint32(4, dirty ? 1 : 0);
  return bytes;
}

class SectorMapImage implements OpenSystem, BlockDevice, JournalClient {
  readonly capabilities: DeviceCapabilities = {
    write: true,
    growable: false,
    resize: false,
    discard: true,
    writeZeroes: true,
    fua: true,
    extents: false,
    preferredBlockBytes: 1,
  };
  readonly sizeBytes = guestSectors * sectorBytes;
  readonly #device: BlockDevice;
  readonly #configuration: EngineConfiguration;
  readonly #writeLock = new Mutex();
  /** Place of each guest sector, 1 based; 0: none. */
  #map: number[] = [];
  readonly #freePlaces: number[] = [];
  /** Written, in no record yet. */
  readonly #unlogged = new Map<number, Uint8Array>();
  /** In a record, not settled. */
  readonly #logged = new Map<number, Uint8Array>();
  /** What the commit under way has to log. */
  #commit: number[] = [];
  #round: number[] = [];
  #engine: JournalEngine | undefined;

  constructor(device: BlockDevice, configuration: EngineConfiguration) {
    this.#device = device;
    this.#configuration = configuration;
  }

  get guest(): BlockDevice {
    return this;
  }

  *load(options: OpenSystemOptions): Task<void> {
    const head = new Uint8Array(2 * sectorBytes);
    yield* wait(this.#device.read(0, head));
    const view = new DataView(head.buffer);
    if (view.getUint32(0) !== magic) throw new FormatError('BAD_MAGIC', 'not a sector map');
    const dirty = view.getUint32(4) !== 0;
    const sequences = new Map<number, number>();
    const log = yield* recoverLog(this.#device, area, {
      guestWrite: (offset, bytes, sequence) => {
        for (let at = 0; at < bytes.length; at += sectorBytes) {
          const sector = (offset + at) / sectorBytes;
          this.#logged.set(sector, bytes.slice(at, at + sectorBytes));
          sequences.set(sector, sequence);
        }
      },
      guestSettled: (offset, lengthBytes, throughSequence) => {
        for (let at = 0; at < lengthBytes; at += sectorBytes) {
          const sector = (offset + at) / sectorBytes;
          if ((sequences.get(sector) ?? Infinity) <= throughSequence) this.#logged.delete(sector);
        }
      },
    });
    log.hostWrites.apply(0, head);
    this.#map = Array.from({ length: guestSectors }, (_, sector) =>
      view.getUint32(mapOffset + 8 * sector + 4),
    );
    for (let place = placeCount; place > 0; place--) {
      if (!this.#map.includes(place)) this.#freePlaces.push(place);
    }
    if (options.readOnly) return;
    this.#engine = new JournalEngine({
      device: this.#device,
      area,
      client: this,
      random: options.random,
      log,
      dirty,
      directBytes: this.#configuration.directBytes,
      writeBackAt: this.#configuration.writeBackAt,
    });
    if (!dirty) return;
    // What was read may never have been durable.
    yield* reassertLog(this.#device, area, log);
    yield* this.#engine.quiesce();
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return run(this.#load(offset, into));
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return run(this.#write(offset, bytes, options?.fua === true));
  }

  flush(): void | Promise<void> {
    return run(this.#writable().commit());
  }

  discard(): void {}

  writeZeroes(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    return this.write(offset, new Uint8Array(lengthBytes), options);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    return [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(): void {}
  settle(): void {}

  rest(): void | Promise<void> {
    return run(this.#writable().quiesce());
  }

  abandon(): void {}

  close(): void | Promise<void> {
    if (this.#engine !== undefined) return run(this.#engine.quiesce());
  }

  // JournalClient

  get unloggedGuestBytes(): number {
    return this.#unlogged.size * sectorBytes;
  }

  beginCommit(): void {
    this.#commit = [...this.#unlogged.keys()];
  }

  hasCommitWrites(): boolean {
    return this.#commit.some((sector) => this.#unlogged.has(sector));
  }

  takeGuestWrites(maxBytes: number): readonly GuestWrite[] {
    const taken: GuestWrite[] = [];
    for (const sector of this.#commit) {
      const bytes = this.#unlogged.get(sector);
      if (bytes === undefined) continue;
      if ((taken.length + 1) * (24 + sectorBytes) > maxBytes) break;
      taken.push({ guestOffset: guestOffset(sector * sectorBytes), bytes });
      this.#unlogged.delete(sector);
      this.#logged.set(sector, bytes);
    }
    return taken;
  }

  *settleUnlogged(): Task<void> {
    yield* this.#writeLock.exclusive(() => this.#settleAll([...this.#unlogged.keys()], true));
  }

  beginRound(): void {
    this.#round = [...this.#logged.keys()];
  }

  get roundPieces(): number {
    return this.#round.length;
  }

  *stepRound(pieces: number): Task<void> {
    const sectors = this.#round.splice(0, Math.min(this.#round.length, pieces));
    yield* this.#writeLock.exclusive(() => this.#settleAll(sectors, false));
  }

  *markDirty(): Task<void> {
    yield* wait(this.#device.write(0, headerSector(true), { event: 'dirty_bit' }));
    yield* wait(this.#device.flush({ event: 'flush_metadata' }));
  }

  *markClean(): Task<void> {
    yield* wait(this.#device.write(0, headerSector(false), { event: 'dirty_bit' }));
    yield* wait(this.#device.flush({ event: 'flush_metadata' }));
  }

  *beforeFlush(): Task<void> {}

  #writable(): JournalEngine {
    if (this.#engine === undefined) throw new InvariantError('the image was opened read-only');
    return this.#engine;
  }

  *#load(offset: number, into: Uint8Array): Task<void> {
    const first = Math.floor(offset / sectorBytes);
    const end = Math.ceil((offset + into.length) / sectorBytes);
    const bytes = new Uint8Array((end - first) * sectorBytes);
    for (let sector = first; sector < end; sector++) {
      yield* this.#loadSector(
        sector,
        bytes.subarray((sector - first) * sectorBytes, (sector - first + 1) * sectorBytes),
      );
    }
    into.set(bytes.subarray(offset - first * sectorBytes, offset - first * sectorBytes + into.length));
  }

  *#loadSector(sector: number, into: Uint8Array): Task<void> {
    const held = this.#unlogged.get(sector) ?? this.#logged.get(sector);
    if (held !== undefined) {
      into.set(held);
      return;
    }
    const place = this.#map[sector]!;
    if (place === 0) into.fill(0);
    else yield* wait(this.#device.read(placeOffset(place), into));
  }

  *#write(offset: number, bytes: Uint8Array, fua: boolean): Task<void> {
    yield* this.#writeLock.exclusive(() => this.#gather(offset, bytes));
    if (fua) yield* this.#writable().commit();
  }

  *#gather(offset: number, bytes: Uint8Array): Task<void> {
    for (let done = 0; done < bytes.length; ) {
      const sector = Math.floor((offset + done) / sectorBytes);
      const start = offset + done - sector * sectorBytes;
      const count = Math.min(bytes.length - done, sectorBytes - start);
      const whole = new Uint8Array(sectorBytes);
      if (count < sectorBytes) yield* this.#loadSector(sector, whole);
      whole.set(bytes.subarray(done, done + count), start);
      this.#unlogged.set(sector, whole);
      done += count;
    }
  }

  /** Write the newest bytes of sectors into free places, and submit the change of the map. */
  *#settleAll(sectors: readonly number[], required: boolean): Task<void> {
    const engine = this.#writable();
    for (const sector of sectors) {
      const bytes = this.#unlogged.get(sector) ?? this.#logged.get(sector);
      if (bytes === undefined) continue;
      const place = this.#freePlaces.pop();
      if (place === undefined) throw new InvariantError('no free place is left');
      yield* wait(this.#device.write(placeOffset(place), bytes, { event: 'write_data' }));
      engine.noteDeviceWrite();
      const left = this.#map[sector]!;
      this.#map[sector] = place;
      this.#unlogged.delete(sector);
      this.#logged.delete(sector);
      const entry = new Uint8Array(8);
      new DataView(entry.buffer).setUint32(4, place);
      engine.submit({
        hostWrites: [{ hostOffset: hostOffset(mapOffset + 8 * sector), bytes: entry }],
        settled: [{ guestOffset: guestOffset(sector * sectorBytes), lengthBytes: sectorBytes }],
        required,
        afterData: true,
        onDurable: () => {
          if (left !== 0) this.#freePlaces.push(left);
        },
      });
    }
  }
}

function placeOffset(place: number): number {
  return placesOffset + (place - 1) * sectorBytes;
}
