/**
 * A random workload on an image, sequential or with several requests under way, on a device that records
 * everything: requests of the guest, and what an owner does (close and open again, kill, quiesce, take the journal
 * away and give it back).
 */
import {
  type BlockDevice,
  FaultDevice,
  type FaultRule,
  MemoryDevice,
  RecordingDevice,
  ShuffledScheduler,
} from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';
import { createImage, type OpenOptions, openImage, type Qcow2Image } from '../../../src/index.ts';
import { type Random, random } from '../../support/random.ts';
import { sectorBytes } from './crash-states.ts';
import { GuestHistory } from './guest-history.ts';
import { addSnapshot } from './shared-tables.ts';

export interface Setup {
  readonly name: string;
  readonly clusterBytes: number;
  readonly sizeBytes: number;
  readonly journal: { readonly sizeBytes: number; readonly blockBytes: number } | false;
  /** Bytes of backing file; 0 for none. */
  readonly backingBytes: number;
  /** An internal snapshot shares every table and cluster that the image begins with. */
  readonly shared: boolean;
  readonly tuning?: NonNullable<OpenOptions['journal']>;
  /** Requests under way at once; the device answers late, in any order, where this is not 1. */
  readonly depth: number;
  /** Enable and disable the journal on the way. */
  readonly switches?: boolean;
  /** The disk grows by so much, now and then. */
  readonly growBytes?: number;
}

export interface Trace {
  readonly start: MemoryDevice;
  readonly initial: Uint8Array;
  readonly recording: RecordingDevice;
  readonly history: GuestHistory;
}

export function openOptions(setup: Setup): OpenOptions {
  return {
    backing: setup.backingBytes > 0 ? MemoryDevice.fromBytes(backingContent(setup)) : 'none',
    ...(setup.tuning === undefined ? {} : { journal: setup.tuning }),
    // Four slices and no more: everything is evicted all the time.
    cache: { cacheSizeBytes: 1, l2CacheEntryBytes: 512 },
  };
}

function backingContent(setup: Setup): Uint8Array {
  const bytes = new Uint8Array(setup.backingBytes);
  for (let i = 0; i < bytes.length; i++) bytes[i] = 0xb0 + ((i >> 9) % 16);
  return bytes;
}

async function makeStart(setup: Setup): Promise<{ start: MemoryDevice; initial: Uint8Array }> {
  const memory = new MemoryDevice();
  const { sizeBytes, clusterBytes, backingBytes } = setup;
  await createImage(memory, {
    sizeBytes,
    clusterBytes,
    journal: setup.shared ? false : setup.journal,
    ...(backingBytes > 0 ? { backingFile: 'base.raw', backingFormat: 'raw' } : {}),
  });
  const initial = new Uint8Array(sizeBytes);
  initial.set(backingContent(setup).subarray(0, sizeBytes));
  if (setup.shared) {
    const first = await openImage(memory, openOptions(setup));
    for (let at = 0; at < sizeBytes / 2; at += 2 * clusterBytes) {
      const bytes = new Uint8Array(clusterBytes).fill(0x50 + ((at / clusterBytes) % 16));
      initial.set(bytes, at);
      await first.write(at, bytes);
    }
    await first.quiesce();
    first.abandon();
    addSnapshot(memory);
    if (setup.journal !== false) {
      const second = await openImage(memory, openOptions(setup));
      await second.enableJournal(setup.journal);
      second.abandon();
    }
  }
  return { start: memory.clone(), initial };
}

/** Run it. Throws where a read shows what it must not. */
export async function runWorkload(setup: Setup, seed: number, requests: number): Promise<Trace> {
  const rng = random(seed);
  const { start, initial } = await makeStart(setup);
  const memory = start.clone();
  const device: BlockDevice =
    setup.depth > 1
      ? new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(seed) })
      : memory;
  const recording = new RecordingDevice(device);
  const history = new GuestHistory(initial, () => recording.now);
  const guest = new Guest(setup, recording, history, rng);
  await guest.run(requests);
  return { start, initial, recording, history };
}

export interface FailedTrace extends Trace {
  /** The device as the failure has left it. */
  readonly memory: MemoryDevice;
  /** What callers heard, in order. */
  readonly errors: readonly Qcow2Error[];
  readonly strikes: number;
}

/** Run it on a device that fails somewhere, until all requests have an answer. What was done is recorded. */
export async function runFailing(
  setup: Setup,
  seed: number,
  requests: number,
  rule: FaultRule,
): Promise<FailedTrace> {
  const rng = random(seed);
  const { start, initial } = await makeStart(setup);
  const memory = start.clone();
  const recording = new RecordingDevice(memory);
  const mode = setup.depth > 1 ? 'async' : 'as-below';
  const faults = new FaultDevice(recording, { mode, scheduler: new ShuffledScheduler(seed) });
  const active = faults.addRule(rule);
  const history = new GuestHistory(initial, () => recording.now);
  const guest = new Guest(setup, faults, history, rng);
  const errors = await guest.runUntilFailure(requests);
  return { start, initial, recording, history, memory, errors, strikes: active.strikes };
}

class Guest {
  readonly #setup: Setup;
  readonly #device: BlockDevice;
  readonly #history: GuestHistory;
  readonly #rng: Random;
  readonly #busy = new Set<number>();
  #image: Qcow2Image | undefined;
  #stamp = 0;
  #switching = false;

  constructor(setup: Setup, device: BlockDevice, history: GuestHistory, rng: Random) {
    this.#setup = setup;
    this.#device = device;
    this.#history = history;
    this.#rng = rng;
  }

  async run(requests: number): Promise<void> {
    await this.#open();
    for (let left = requests; left > 0; ) {
      const batch = Math.min(left, 5 + this.#rng.below(25));
      await this.#requests(batch);
      left -= batch;
      await this.#owner();
    }
    await this.#requests(3);
    await this.#image!.close();
  }

  /** Everybody goes on until he hears of an error; returns what was heard. */
  async runUntilFailure(requests: number): Promise<Qcow2Error[]> {
    const errors: Qcow2Error[] = [];
    const attempt = async (body: () => Promise<void>): Promise<boolean> => {
      try {
        await body();
        return true;
      } catch (error) {
        if (!(error instanceof Qcow2Error)) throw error;
        errors.push(error);
        return false;
      }
    };
    if (!(await attempt(() => this.#open()))) return errors;
    let left = requests;
    const worker = async (): Promise<void> => {
      while (left-- > 0 && (await attempt(() => this.#request())));
    };
    await Promise.all(Array.from({ length: this.#setup.depth }, worker));
    await attempt(() => this.#image!.close());
    return errors;
  }

  async #open(): Promise<void> {
    this.#image = await openImage(new KeptOpen(this.#device), openOptions(this.#setup));
    const seen = new Uint8Array(this.#image.sizeBytes);
    await this.#image.read(0, seen);
    const mismatch = this.#history.crashMismatch(Number.MAX_SAFE_INTEGER, seen);
    if (mismatch !== undefined) throw new Error(`opened: ${mismatch}`);
    this.#history.settle(seen);
  }

  async #owner(): Promise<void> {
    const image = this.#image!;
    const choice = this.#rng.below(this.#setup.switches === true ? 7 : 5);
    if (this.#setup.growBytes !== undefined && this.#rng.below(4) === 0)
      await this.#grow(this.#setup.growBytes);
    if (choice === 0) {
      await image.close();
      await this.#open();
    } else if (choice === 1) {
      image.abandon();
      await this.#open();
    } else if (choice === 2) {
      await this.#quiesce();
    } else if (choice >= 5) {
      await this.#switch();
    }
  }

  async #grow(growBytes: number): Promise<void> {
    const done = this.#history.grow(growBytes);
    await this.#image!.grow(this.#history.sizeBytes);
    done();
  }

  async #quiesce(): Promise<void> {
    const acknowledge = this.#history.flush();
    await this.#image!.quiesce();
    acknowledge();
  }

  async #switch(): Promise<void> {
    if (this.#switching) return;
    this.#switching = true;
    const image = this.#image!;
    if (image.journalStatus() === undefined) await image.enableJournal({ sizeBytes: 65536, blockBytes: 512 });
    else if (this.#rng.below(2) === 0)
      await image.resizeJournal({ sizeBytes: 65536 * (1 + this.#rng.below(3)) });
    else await image.disableJournal();
    this.#switching = false;
  }

  async #requests(count: number): Promise<void> {
    let left = count;
    const worker = async (): Promise<void> => {
      while (left > 0) {
        left--;
        await this.#request();
      }
    };
    await Promise.all(Array.from({ length: this.#setup.depth }, worker));
  }

  async #request(): Promise<void> {
    const rng = this.#rng;
    const image = this.#image!;
    const kind = rng.below(20);
    if (kind < 4) {
      const acknowledge = this.#history.flush();
      await image.flush();
      acknowledge();
      return;
    }
    if (this.#setup.depth > 1 && rng.below(40) === 0) {
      // What an owner does while the guest goes on.
      if (this.#setup.switches === true && rng.below(2) === 0) await this.#switch();
      else if (this.#setup.growBytes !== undefined && rng.below(2) === 0)
        await this.#grow(this.#setup.growBytes);
      else await this.#quiesce();
      return;
    }
    const range = this.#range();
    if (range === undefined) return;
    const { offset, length } = range;
    const first = Math.floor(offset / sectorBytes);
    const last = Math.ceil((offset + length) / sectorBytes);
    for (let sector = first; sector < last; sector++) this.#busy.add(sector);
    if (kind < 13) {
      const bytes = this.#stamped(length);
      const fua = rng.below(8) === 0;
      const done = this.#history.write(offset, bytes);
      await image.write(offset, bytes, { fua });
      done(fua);
    } else if (kind < 15) {
      const done = this.#history.zero(offset, length, false);
      await image.writeZeroes(offset, length, { mayUnmap: rng.below(2) === 0 });
      done();
    } else if (kind < 18) {
      const done = this.#history.zero(offset, length, true);
      await image.discard(offset, length);
      done();
    } else {
      const seen = new Uint8Array(last * sectorBytes - first * sectorBytes);
      await image.read(first * sectorBytes, seen);
      const mismatch = this.#history.readMismatch(first * sectorBytes, seen);
      if (mismatch !== undefined) throw new Error(`read at ${offset}: ${mismatch}`);
    }
    for (let sector = first; sector < last; sector++) this.#busy.delete(sector);
  }

  /** Bytes that no other request writes. */
  #stamped(length: number): Uint8Array {
    this.#stamp++;
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = i % 2 === 0 ? this.#stamp & 0xff : 1 + (this.#stamp >> 8);
    return bytes;
  }

  /** A range of which no sector is in use by a request under way; undefined where none is found. */
  #range(): { offset: number; length: number } | undefined {
    const rng = this.#rng;
    const { clusterBytes } = this.#setup;
    // While it grows, the disk has the size that it had.
    const { sizeBytes } = this.#image!;
    for (let tries = 0; tries < 10; tries++) {
      const unit = rng.pick([sectorBytes, sectorBytes, clusterBytes, clusterBytes, 100]);
      // Most of what happens happens in few clusters.
      const area = rng.below(3) === 0 ? sizeBytes : Math.min(sizeBytes, 6 * clusterBytes);
      const offset = Math.floor(rng.below(area) / unit) * unit;
      const length = Math.min(sizeBytes - offset, unit * (1 + rng.below(rng.pick([1, 2, 4, 20]))));
      let free = true;
      for (let at = Math.floor(offset / sectorBytes); at * sectorBytes < offset + length; at++) {
        if (this.#busy.has(at)) free = false;
      }
      if (free && length > 0) return { offset, length };
    }
    return undefined;
  }
}

/** Closing an image closes its device; this one is opened again. */
class KeptOpen implements BlockDevice {
  readonly #below: BlockDevice;

  constructor(below: BlockDevice) {
    this.#below = below;
  }
  get capabilities() {
    return this.#below.capabilities;
  }
  get sizeBytes() {
    return this.#below.sizeBytes;
  }
  read: BlockDevice['read'] = (...request) => this.#below.read(...request);
  write: BlockDevice['write'] = (...request) => this.#below.write(...request);
  flush: BlockDevice['flush'] = (...request) => this.#below.flush(...request);
  discard: BlockDevice['discard'] = (...request) => this.#below.discard(...request);
  writeZeroes: BlockDevice['writeZeroes'] = (...request) => this.#below.writeZeroes(...request);
  extents: BlockDevice['extents'] = (...request) => this.#below.extents(...request);
  resize: BlockDevice['resize'] = (...request) => this.#below.resize(...request);
  close(): void {}
}
