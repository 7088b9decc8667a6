/**
 * The device below fails: every read, write, flush and resize of some workloads, once and for good, as a whole and
 * in part. Then: somebody hears of it, nobody waits for ever, nothing is written afterwards, and what was
 * acknowledged is there when the image is opened again, on the device as it is and after a crash.
 */
import {
  type BlockDevice,
  type Fault,
  FaultDevice,
  type FaultOperation,
  isPromise,
  MemoryDevice,
  type RecordedFlush,
  type RecordedOperation,
  RecordingDevice,
  ShuffledScheduler,
} from '@qcow2/block-device';
import { Qcow2Error, StorageError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage, type Qcow2Image } from '../../src/index.ts';
import { CrashStates, keepings } from '../crash/support/crash-states.ts';
import { type Done, GuestHistory } from '../crash/support/guest-history.ts';
import { random } from '../support/random.ts';

interface Setup {
  readonly name: string;
  readonly journal: { readonly sizeBytes: number; readonly blockBytes: number } | false;
  readonly asynchronous: boolean;
  readonly tuning?: NonNullable<OpenOptions['journal']>;
}

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const eager = {
  directWriteBytes: 1024,
  directFlushBytes: 512,
  writeBackAt: 0.01,
  overlayBytes: 4096,
} as const;
const setups: readonly Setup[] = [
  { name: 'journalled', journal, asynchronous: false },
  { name: 'journalled, eager, asynchronous', journal, asynchronous: true, tuning: eager },
  { name: 'ordered', journal: false, asynchronous: false },
  { name: 'ordered, asynchronous', journal: false, asynchronous: true },
];

const clusterBytes = 4096;
const sizeBytes = 128 * 1024;

interface FaultKind {
  readonly name: string;
  readonly operation: FaultOperation;
  readonly times: number;
  readonly fault: Fault;
}

const once = 1;
const forGood = Number.POSITIVE_INFINITY;
const faults: readonly FaultKind[] = [
  { name: 'write fails', operation: 'write', times: once, fault: { kind: 'fail' } },
  { name: 'writes fail for good', operation: 'write', times: forGood, fault: { kind: 'fail' } },
  { name: 'device is full', operation: 'write', times: forGood, fault: { kind: 'fail', errno: 'ENOSPC' } },
  { name: 'write is short', operation: 'write', times: once, fault: { kind: 'short', doneBytes: 512 } },
  {
    name: 'write is torn',
    operation: 'write',
    times: once,
    fault: { kind: 'torn', lands: (sector) => sector % 2 === 1 },
  },
  { name: 'flush fails', operation: 'flush', times: once, fault: { kind: 'fail' } },
  { name: 'flushes fail for good', operation: 'flush', times: forGood, fault: { kind: 'fail' } },
  { name: 'read fails', operation: 'read', times: once, fault: { kind: 'fail' } },
  { name: 'reads fail for good', operation: 'read', times: forGood, fault: { kind: 'fail' } },
  { name: 'resize fails', operation: 'resize', times: once, fault: { kind: 'fail', errno: 'ENOSPC' } },
];

/** What a request came to. */
interface Outcome {
  readonly what: string;
  readonly changes: boolean;
  readonly error: unknown;
}

class Run {
  readonly memory: MemoryDevice;
  /** What really happens, below the faults. */
  readonly recording: RecordingDevice;
  readonly faulty: FaultDevice;
  /** The device of the image. */
  readonly device: Borrowed;
  readonly history: GuestHistory;
  readonly outcomes: Outcome[] = [];
  readonly #setup: Setup;
  #image: Qcow2Image | undefined;
  #stamp = 0;

  constructor(setup: Setup, start: MemoryDevice) {
    this.#setup = setup;
    this.memory = start.clone();
    this.recording = new RecordingDevice(this.memory);
    this.faulty = new FaultDevice(this.recording, {
      mode: setup.asynchronous ? 'async' : 'as-below',
      scheduler: new ShuffledScheduler(1),
    });
    this.device = new Borrowed(this.faulty, this.recording);
    this.history = new GuestHistory(new Uint8Array(sizeBytes), () => this.recording.now);
  }

  get options(): OpenOptions {
    // The smallest cache: tables are read again and again.
    return {
      cache: { cacheSizeBytes: 1 },
      ...(this.#setup.tuning === undefined ? {} : { journal: this.#setup.tuning }),
    };
  }

  /** Every kind of request, in an order in which each finds something to do. Ends at a failed open. */
  async workload(): Promise<void> {
    if (!(await this.#open())) return;
    await this.#write(0, 512);
    await this.#write(1024, 5000);
    await this.#flush();
    await this.#write(3 * clusterBytes, 2 * clusterBytes);
    await this.#write(2 * clusterBytes + 100, 200);
    await this.#flush();
    await this.#zero(clusterBytes, 2 * clusterBytes, false);
    await this.#write(5 * clusterBytes, 700);
    await this.#read();
    await this.#flush();
    await this.#zero(3 * clusterBytes, clusterBytes, true);
    await this.#flush();
    await this.#write(8 * clusterBytes, clusterBytes);
    await this.#write(512, 512);
    await this.#flush();
    await this.#attempt('quiesce', true, () => this.#image!.quiesce());
    await this.#write(6 * clusterBytes, 1536);
    await this.#together();
    await this.#flush();
    await this.#attempt('close', true, () => this.#image!.close());
  }

  /** Several requests and flushes at once. */
  async #together(): Promise<void> {
    await Promise.all([
      this.#write(10 * clusterBytes, 4096),
      this.#flush(),
      this.#write(12 * clusterBytes, 512),
      this.#zero(5 * clusterBytes, clusterBytes, true),
      this.#flush(),
    ]);
  }

  async #open(): Promise<boolean> {
    await this.#attempt('open', false, async () => {
      this.#image = await openImage(this.device, this.options);
    });
    return this.#image !== undefined;
  }

  async #attempt(
    what: string,
    changes: boolean,
    body: () => void | Promise<void>,
    done?: Done,
  ): Promise<void> {
    try {
      await body();
      done?.();
      this.outcomes.push({ what, changes, error: undefined });
    } catch (error) {
      this.outcomes.push({ what, changes, error });
    }
  }

  #write(offset: number, length: number): Promise<void> {
    const bytes = new Uint8Array(length).fill(++this.#stamp);
    const done = this.history.write(offset, bytes);
    return this.#attempt(`write ${offset}`, true, () => this.#image!.write(offset, bytes), done);
  }

  #zero(offset: number, length: number, discard: boolean): Promise<void> {
    const done = this.history.zero(offset, length, discard);
    const image = this.#image!;
    const body = () => (discard ? image.discard(offset, length) : image.writeZeroes(offset, length));
    return this.#attempt(discard ? 'discard' : 'zero', true, body, done);
  }

  #flush(): Promise<void> {
    return this.#attempt('flush', true, () => this.#image!.flush(), this.history.flush());
  }

  #read(): Promise<void> {
    return this.#attempt('read', false, async () => {
      const seen = new Uint8Array(sizeBytes);
      await this.#image!.read(0, seen);
      expect(this.history.readMismatch(0, seen)).toBeUndefined();
    });
  }
}

/** The image's device: stays open when the image closes it, and remembers in the log which flushes failed. */
class Borrowed extends FaultDevice {
  readonly #failed: RecordedFlush[] = [];
  readonly #recording: RecordingDevice;

  constructor(below: BlockDevice, recording: RecordingDevice) {
    super(below);
    this.#recording = recording;
  }

  /** What was done, and the flushes that failed, which the recording below never saw. */
  get log(): readonly RecordedOperation[] {
    return [...this.#recording.log, ...this.#failed].sort((a, b) => a.startedAt - b.startedAt);
  }

  override flush(): void | Promise<void> {
    const startedAt = this.#recording.now;
    const fail = (error: unknown): never => {
      const completedAt = this.#recording.now;
      this.#failed.push({
        kind: 'flush',
        serial: -1,
        event: undefined,
        startedAt,
        completedAt,
        failed: true,
      });
      throw error;
    };
    try {
      const done = super.flush();
      return isPromise(done) ? done.catch(fail) : done;
    } catch (error) {
      return fail(error);
    }
  }

  override close(): void {}
}

async function makeStart(setup: Setup): Promise<MemoryDevice> {
  const start = new MemoryDevice();
  await createImage(start, { sizeBytes, clusterBytes, journal: setup.journal });
  return start;
}

async function countOperations(
  setup: Setup,
  start: MemoryDevice,
  operation: FaultOperation,
): Promise<number> {
  const run = new Run(setup, start);
  const counter = run.faulty.addRule({ operation, nth: forGood, fault: { kind: 'fail' } });
  await run.workload();
  expect(run.outcomes.filter(({ error }) => error !== undefined)).toEqual([]);
  return counter.matches;
}

/** The first failure of something that changes the image ends all changing. */
function expectFailStop(run: Run, kind: FaultKind): void {
  for (const { what, error } of run.outcomes) {
    if (error !== undefined) expect(error, what).toBeInstanceOf(Qcow2Error);
  }
  // A failed read has changed nothing: whether it ends writing is not asked here.
  const first = run.outcomes.findIndex(
    ({ error, changes }) => changes && error instanceof StorageError && error.code !== 'READ_FAILED',
  );
  const heard = run.outcomes.some(({ error }) => error !== undefined);
  expect(heard, `somebody hears that a ${kind.name}`).toBe(true);
  if (first < 0) return;
  // What was under way at the same time may end either way; the three requests before the close come after it.
  for (const { what, changes, error } of run.outcomes.slice(first + 6)) {
    if (!changes || what === 'close') continue;
    expect(error, what).toMatchObject({ code: 'FAILED_EARLIER' });
  }
}

async function expectRecovered(setup: Setup, run: Run, device: MemoryDevice, time: number): Promise<void> {
  const image = await openImage(device, run.options);
  const seen = new Uint8Array(sizeBytes);
  await image.read(0, seen);
  expect(run.history.crashMismatch(time, seen)).toBeUndefined();
  image.abandon();
  const report = await checkImage(device);
  expect(report.corruptions + report.checkErrors, report.findings[0]?.message ?? '').toBe(0);
  if (setup.journal !== false) expect(report.leaks, report.findings[0]?.message ?? '').toBe(0);
}

async function strike(setup: Setup, start: MemoryDevice, kind: FaultKind, nth: number): Promise<void> {
  const run = new Run(setup, start);
  const rule = run.faulty.addRule({ operation: kind.operation, nth, times: kind.times, fault: kind.fault });
  await run.workload();
  expect(rule.strikes).toBeGreaterThan(0);
  expectFailStop(run, kind);
  rule.remove();
  const stoppedAt = run.recording.now;
  // The device as it is.
  await expectRecovered(setup, run, run.memory.clone(), stoppedAt);
  // The same process opens the image again, recovers, and the machine crashes: before, meanwhile, or after.
  const again = await openImage(run.device, run.options);
  again.abandon();
  const rng = random(nth);
  const states = new CrashStates(start, run.device.log);
  const span = run.recording.now - stoppedAt;
  // What a failed flush has dropped shows only where recovery crashes at the wrong moment: look longer.
  const draws = kind.operation === 'flush' ? 12 : 3;
  const meanwhile = Array.from({ length: draws }, () => stoppedAt + rng.below(span + 1));
  const times = [stoppedAt, ...meanwhile, run.recording.now];
  for (const time of times.sort((a, b) => a - b)) {
    states.advance(time);
    await expectRecovered(setup, run, states.draw(rng, rng.pick(keepings)), time);
  }
}

describe.each(setups)('$name', (setup) => {
  it.each(faults)('[JRN-FAIL-001, JRN-FAIL-002, JRN-RECOV-010] the nth $name, for every n', async (kind) => {
    const start = await makeStart(setup);
    const count = await countOperations(setup, start, kind.operation);
    for (let nth = 1; nth <= count; nth++) {
      await strike(setup, start, kind, nth).catch((cause: unknown) => {
        throw new Error(`${kind.name} at ${nth} of ${count}`, { cause });
      });
    }
  });
});
