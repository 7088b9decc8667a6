/**
 * The smallest client: guest sectors that stand at fixed places of the device, so that settling is a write in
 * place, and eight-byte counters that stand for metadata.
 *
 * Device: the dirty bit at byte 0, counters from 4096, guest sectors from 16384, the journal's area behind them.
 */
import { type BlockDevice, isPromise, Mutex, run, type Task, wait } from '@qcow2/block-device';
import { guestOffset, hostOffset } from '@qcow2/spec';
import {
  formatArea,
  type GuestSink,
  type GuestWrite,
  type JournalClient,
  JournalEngine,
  type LoggedIntent,
  reassertLog,
  recoverLog,
} from '../../src/index.ts';
import type { Random } from './random.ts';

export const sectorBytes = 512;
export const countersAt = 4096;
export const guestAt = 16384;
export const guestSectors = 64;
export const area = { hostOffset: 65536, lengthBytes: 65536 } as const;

/** The kind of the intents that this client serves: its operations change nothing. */
export const servedKind = 7;

interface Held {
  bytes: Uint8Array;
  dirty: boolean;
  version: number;
  settledVersion: number;
}

/** Format a journal over a device and write nothing else. */
export async function formatted(device: BlockDevice, rng: Random, blockBytes = 512): Promise<void> {
  await device.write(0, new Uint8Array(area.hostOffset));
  await run(formatArea(device, area, blockBytes, rng.fill));
}

export class SectorGuest implements JournalClient, GuestSink {
  readonly device: BlockDevice;
  readonly intentKinds: ReadonlySet<number> = new Set([servedKind]);
  /** What recovery found open, and this client has ended since. */
  recoveredIntents: readonly LoggedIntent[] = [];
  readonly #held = new Map<number, Held>();
  readonly #sequences = new Map<number, number>();
  readonly #lock = new Mutex();
  #engine: JournalEngine | undefined;
  #commit: number[] = [];
  #round: number[] = [];

  private constructor(device: BlockDevice) {
    this.device = device;
  }

  /** Open, recovering what is dirty. Throws what recovery throws. */
  static async open(
    device: BlockDevice,
    rng: Random,
    tuning: { directBytes?: number; writeBackAt?: number } = {},
  ): Promise<SectorGuest> {
    const guest = new SectorGuest(device);
    const flag = new Uint8Array(1);
    await device.read(0, flag);
    const dirty = flag[0] === 1;
    const log = await run(recoverLog(device, area, guest));
    if (dirty) await run(reassertLog(device, area, log));
    guest.#engine = new JournalEngine({
      device,
      area,
      client: guest,
      random: rng.fill,
      log,
      dirty,
      ...tuning,
    });
    guest.recoveredIntents = log.openIntents;
    for (const { id } of log.openIntents) {
      guest.engine.submit({ intentDone: id, required: true, afterData: false });
    }
    if (log.openIntents.length > 0) await guest.flush();
    if (dirty) await run(guest.engine.quiesce());
    return guest;
  }

  get engine(): JournalEngine {
    return this.#engine!;
  }

  write(sector: number, bytes: Uint8Array): void {
    const held = this.#held.get(sector);
    const version = (held?.version ?? 0) + 1;
    this.#held.set(sector, { bytes, dirty: true, version, settledVersion: held?.settledVersion ?? -1 });
  }

  async read(sector: number): Promise<Uint8Array> {
    const held = this.#held.get(sector);
    if (held !== undefined) return held.bytes.slice();
    const into = new Uint8Array(sectorBytes);
    await this.device.read(guestAt + sector * sectorBytes, into);
    return into;
  }

  /** Change a counter: metadata that only the log protects. */
  count(index: number, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value);
    const at = hostOffset(countersAt + index * 8);
    this.engine.submit({ hostWrites: [{ hostOffset: at, bytes }], required: true, afterData: false });
  }

  async counter(index: number): Promise<bigint> {
    const bytes = new Uint8Array(8);
    await this.device.read(countersAt + index * 8, bytes);
    this.engine.patch(countersAt + index * 8, bytes);
    return new DataView(bytes.buffer).getBigUint64(0);
  }

  flush(): void | Promise<void> {
    return run(this.engine.commit());
  }

  quiesce(): void | Promise<void> {
    return run(this.engine.quiesce());
  }

  get unloggedGuestBytes(): number {
    return [...this.#held.values()].filter(({ dirty }) => dirty).length * sectorBytes;
  }

  beginCommit(): void {
    this.#commit = [...this.#held.keys()].filter((sector) => this.#held.get(sector)!.dirty);
  }

  hasCommitWrites(): boolean {
    this.#commit = this.#commit.filter((sector) => this.#held.get(sector)?.dirty === true);
    return this.#commit.length > 0;
  }

  takeGuestWrites(maxBytes: number): readonly GuestWrite[] {
    const writes: GuestWrite[] = [];
    for (let left = maxBytes; left >= sectorBytes + 24 && this.hasCommitWrites(); left -= sectorBytes + 24) {
      const sector = this.#commit[0]!;
      const held = this.#held.get(sector)!;
      held.dirty = false;
      writes.push({ guestOffset: guestOffset(sector * sectorBytes), bytes: held.bytes });
    }
    return writes;
  }

  *settleUnlogged(): Task<void> {
    for (const [sector, held] of [...this.#held]) if (held.dirty) yield* this.#settle(sector);
  }

  beginRound(): void {
    this.#round = [...this.#held.keys()];
  }

  get roundPieces(): number {
    return this.#round.length;
  }

  *stepRound(pieces: number): Task<void> {
    for (let left = pieces; left > 0; left--) {
      const sector = this.#round.pop();
      if (sector === undefined) return;
      yield* this.#settle(sector);
    }
  }

  *#settle(sector: number): Task<void> {
    yield* this.#lock.exclusive(() => this.#settleLocked(sector));
  }

  *#settleLocked(sector: number): Task<void> {
    const held = this.#held.get(sector);
    if (held === undefined || held.settledVersion === held.version) return;
    const { version } = held;
    const required = held.dirty;
    const done = this.device.write(guestAt + sector * sectorBytes, held.bytes, { event: 'write_data' });
    if (isPromise(done)) yield done;
    // Written to meanwhile: what stands in place is not what the log is to refer to.
    if (this.#held.get(sector)?.version !== version) return;
    held.settledVersion = version;
    held.dirty = false;
    this.engine.noteDeviceWrite();
    this.engine.submit({
      settled: [{ guestOffset: guestOffset(sector * sectorBytes), lengthBytes: sectorBytes }],
      required,
      afterData: true,
      onDurable: () => {
        if (this.#held.get(sector)?.version === version) this.#held.delete(sector);
      },
    });
  }

  *markDirty(): Task<void> {
    yield* this.#mark(1);
  }

  *markClean(): Task<void> {
    yield* this.#mark(0);
  }

  *#mark(value: number): Task<void> {
    yield* wait(this.device.write(0, Uint8Array.of(value), { event: 'dirty_bit' }));
    yield* wait(this.device.flush({ event: 'flush_metadata' }));
  }

  *beforeFlush(): Task<void> {}

  guestWrite(offset: number, bytes: Uint8Array, sequence: number): void {
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      const sector = (offset + at) / sectorBytes;
      const held = { bytes: bytes.slice(at, at + sectorBytes), dirty: false, version: 1, settledVersion: -1 };
      this.#held.set(sector, held);
      this.#sequences.set(sector, sequence);
    }
  }

  guestSettled(offset: number, lengthBytes: number, throughSequence: number): void {
    for (let at = 0; at < lengthBytes; at += sectorBytes) {
      const sector = (offset + at) / sectorBytes;
      if ((this.#sequences.get(sector) ?? Number.POSITIVE_INFINITY) > throughSequence) continue;
      this.#held.delete(sector);
      this.#sequences.delete(sector);
    }
  }
}
