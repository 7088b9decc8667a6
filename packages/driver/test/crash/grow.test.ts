/**
 * Making a disk larger over a longer backing file: whatever a crash keeps, the disk has its old size or its new one, and no
 * byte of what its end has hidden. With a journal nothing is left of a half of it.
 */
import { FaultDevice, MemoryDevice, RecordingDevice, run, ShuffledScheduler } from '@qcow2/block-device';
import { type JournalCounters, JournalEngine } from '@qcow2/journal';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { GrowOperation } from '../../src/grow-operation.ts';
import { checkImage, createImage, openImage, type Qcow2Image } from '../../src/index.ts';
import { JournalledLog } from '../../src/journalled-log.ts';
import { openParts } from '../../src/open.ts';
import { OrderedLog } from '../../src/ordered-log.ts';
import { random } from '../support/random.ts';
import { atCrash, crashAgain } from './support/crash-again.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;

interface Setup {
  readonly name: string;
  readonly journal: { readonly sizeBytes: number; readonly blockBytes: number } | false;
  readonly version?: 2 | 3;
  readonly clusterBytes: number;
  readonly before: number;
  readonly after: number;
  readonly backingBytes: number;
  /** Guest ranges that are written first, and flushed. */
  readonly written: readonly (readonly [number, number])[];
  /** A guest writes and flushes all the while, on a device that answers late. */
  readonly busy?: boolean;
  readonly preallocation?: 'metadata' | 'data';
}

const base = {
  journal,
  clusterBytes: 512,
  before: 5 * 512 + 100,
  after: 70_000,
  backingBytes: 60_000,
  written: [[512, 512]],
} as const;

const places = {
  ...base,
  clusterBytes: 4096,
  before: 9 * 4096 + 1024,
  after: 30 * 4096,
  backingBytes: 20 * 4096,
} as const;

const setups: readonly Setup[] = [
  { name: 'journalled', ...base },
  { name: 'journalled, the last cluster in the log', ...base, written: [[5 * 512, 100]] },
  { name: 'journalled, clusters of 4096', ...base, clusterBytes: 4096, before: 9 * 4096 + 1024 },
  {
    name: 'journalled, the last cluster in place',
    ...base,
    clusterBytes: 4096,
    before: 9 * 4096 + 1024,
    written: [[8 * 4096, 4096 + 1024]],
  },
  { name: 'journalled, backing file as long as the new disk', ...base, backingBytes: 100_000 },
  { name: 'ordered', ...base, journal: false },
  { name: 'ordered, clusters of 4096', ...base, journal: false, clusterBytes: 4096, before: 9 * 4096 + 1024 },
  { name: 'ordered, version 2', ...base, journal: false, version: 2, backingBytes: 30_000 },
  { name: 'journalled, places', ...places, preallocation: 'data' },
  { name: 'ordered, places', ...places, journal: false, preallocation: 'metadata' },
];

const backings = new Map<number, MemoryDevice>();

/** Never closed: one for all images with a backing file of this length. */
function backing({ backingBytes }: Setup): MemoryDevice {
  const known = backings.get(backingBytes);
  if (known !== undefined) return known;
  const device = MemoryDevice.fromBytes(new Uint8Array(backingBytes).fill(0xbb));
  backings.set(backingBytes, device);
  return device;
}

/** The image before, and what its disk shows. */
async function makeStart(setup: Setup): Promise<{ start: MemoryDevice; content: Uint8Array }> {
  const start = new MemoryDevice();
  const { before, clusterBytes, version = 3 } = setup;
  await createImage(start, {
    sizeBytes: before,
    clusterBytes,
    version,
    journal: setup.journal,
    backingFile: 'base',
  });
  return { start, content: new Uint8Array(before).fill(0xbb) };
}

async function growRecorded(setup: Setup) {
  const { start, content } = await makeStart(setup);
  const memory = start.clone();
  const below = setup.busy
    ? new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(1) })
    : memory;
  const device = new RecordingDevice(below);
  const image = await openImage(device, { backing: backing(setup) });
  for (const [at, length] of setup.written) {
    await image.write(at, new Uint8Array(length).fill(7));
    content.fill(7, at, at + length);
  }
  await image.flush();
  const from = device.now;
  await growBusily(image, setup);
  await image.flush();
  const flushed = device.now;
  await image.write(setup.before, Uint8Array.of(9));
  await image.quiesce();
  image.abandon();
  return { start, content, device, from, flushed, memory, status: image.journalStatus() };
}

/** Grow, while the guest writes again what stands there, and flushes, if it is busy. */
async function growBusily(image: Qcow2Image, setup: Setup): Promise<void> {
  let growing = true;
  const { preallocation } = setup;
  const asked =
    preallocation === undefined ? image.grow(setup.after) : image.resize(setup.after, { preallocation });
  const grow = Promise.resolve(asked).finally(() => {
    growing = false;
  });
  while (setup.busy && growing) {
    for (const [at, length] of setup.written) await image.write(at, new Uint8Array(length).fill(7));
    await image.flush();
  }
  await grow;
}

/** What is wrong with the disk that an image shows; undefined for nothing. */
async function judgeDisk(image: Qcow2Image, setup: Setup, content: Uint8Array): Promise<string | undefined> {
  const { sizeBytes } = image;
  if (sizeBytes !== setup.before && sizeBytes !== setup.after) return `a disk of ${sizeBytes} bytes`;
  const seen = new Uint8Array(sizeBytes);
  await image.read(0, seen);
  // One byte is written behind the old end, later.
  if (seen[setup.before] === 9) seen[setup.before] = 0;
  const wanted = new Uint8Array(sizeBytes);
  wanted.set(content);
  if (Buffer.compare(seen, wanted) === 0) return undefined;
  const at = seen.findIndex((byte, i) => byte !== wanted[i]);
  return `byte ${at} is ${seen[at]}, not ${wanted[at]}`;
}

/** L2 tables of the active disk that lie wholly behind its end. */
async function tablesBehindEnd(memory: MemoryDevice, setup: Setup): Promise<number> {
  const parts = await run(openParts(memory, { readOnly: true, backing: backing(setup) }));
  const { core, mappings } = parts;
  let count = 0;
  const first = Math.ceil(core.header.sizeBytes / (core.clusterBytes * core.l2Entries));
  for (let index = first; index < core.header.l1Entries; index++) {
    if (mappings.l2TableOffset(index * core.l2Entries) !== 0) count++;
  }
  return count;
}

async function judge(setup: Setup, crashed: MemoryDevice, content: Uint8Array): Promise<number> {
  const before = crashed.snapshot();
  const reader = await openImage(crashed, { readOnly: true, backing: backing(setup) });
  expect(await judgeDisk(reader, setup, content), 'read-only').toBeUndefined();
  expect(Buffer.compare(crashed.snapshot(), before)).toBe(0);
  const writer = await openImage(crashed, { backing: backing(setup) });
  expect(await judgeDisk(writer, setup, content), 'recovered').toBeUndefined();
  expect(writer.sizeBytes).toBe(reader.sizeBytes);
  writer.abandon();
  const report = await checkImage(crashed.clone());
  expect(
    report.findings.slice(0, 3).filter(({ severity }) => setup.journal !== false || severity !== 'leak'),
  ).toEqual([]);
  if (setup.journal !== false) expect(await tablesBehindEnd(crashed, setup)).toBe(0);
  return writer.sizeBytes;
}

/** Crash at every moment from the request on, or at about `points` of them. Returns the sizes that were found. */
async function attack(setup: Setup, perPoint: number, points?: number): Promise<Set<number>> {
  const { start, content, device, from, flushed } = await growRecorded(setup);
  const rng = random(setup.clusterBytes);
  const states = new CrashStates(start, device.log);
  const sizes = new Set<number>();
  for (let time = from; time <= device.now; time++) {
    states.advance(time);
    if (points !== undefined && time < device.now && rng.below(device.now - from) >= points) continue;
    for (let i = 0; i < perPoint; i++) {
      const crashed = states.draw(rng, rng.pick(keepings));
      const twice = await crashAgain(crashed, rng, { backing: backing(setup) });
      const when = `${time} of ${device.now}`;
      const size = await judge(setup, crashed, content).catch(atCrash(when));
      const sizeTwice = await judge(setup, twice, content).catch(atCrash(`${when}, and of its recovery`));
      expect(sizeTwice).toBe(size);
      if (time >= flushed) expect(size).toBe(setup.after);
      sizes.add(size);
    }
  }
  return sizes;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(setups)('$name', (setup) => {
  it('[JRN-INTENT-005, JRN-INTENT-022, JRN-INTENT-023, JRN-INTENT-024, JRN-INTENT-025] one size or the other, after any crash', async () => {
    const { content, memory } = await growRecorded(setup);
    const image = await openImage(memory, { backing: backing(setup) });
    expect(image.sizeBytes).toBe(setup.after);
    expect(await judgeDisk(image, setup, content)).toBeUndefined();
    image.abandon();
    expect(await attack(setup, 1)).toEqual(new Set([setup.before, setup.after]));
  });
});

/** Of so many sections, with commits of the guest in between, a ring of 56 KiB does not hold all records at once. */
const huge: Setup = {
  ...base,
  name: 'journalled, 60,000 clusters',
  after: 31 << 20,
  backingBytes: 30 << 20,
  busy: true,
};

describe('an operation that is larger than the ring', () => {
  it('[JRN-INTENT-004, JRN-FAIL-003] goes through, in records of several laps', async () => {
    const { status } = await growRecorded(huge);
    expect((status!.counters as JournalCounters).recordBytes).toBeGreaterThan(2 * status!.use!.ringBytes);
    expect((status!.counters as JournalCounters).rounds).toBeGreaterThan(2);
    expect(status).toMatchObject({ state: 'clean' });
  });

  it('[JRN-INTENT-004, JRN-INTENT-005, JRN-INTENT-024] is there or not, after any crash', async () => {
    expect(await attack(huge, 1, 24)).toEqual(new Set([huge.before, huge.after]));
  });

  it('leaves tables behind where nobody repeats its intent', async () => {
    const { submit } = JournalEngine.prototype;
    vi.spyOn(JournalEngine.prototype, 'submit').mockImplementation(function (this: JournalEngine, change) {
      // What the operation says itself is required; what the engine repeats is not.
      if (change.intent === undefined || change.required) submit.call(this, change);
    });
    await expect(attack(huge, 1, 24)).rejects.toThrow(/^crash at/);
  });
});

describe('the order', () => {
  it.each([
    ['journalled', huge],
    ['ordered', setups.find(({ name }) => name === 'ordered')!],
  ])('is found to be broken where the size changes before the zeros: %s', async (_, setup) => {
    const { layZeros, end } = GrowOperation.prototype;
    vi.spyOn(JournalledLog.prototype, 'newIntentId').mockReturnValue(undefined as unknown as number);
    vi.spyOn(GrowOperation.prototype, 'layZeros').mockImplementation(function* (this: GrowOperation) {
      yield* end.call(this);
      yield* layZeros.call(this);
    });
    vi.spyOn(GrowOperation.prototype, 'end').mockImplementation(function* () {});
    await expect(attack(setup, 3, 24)).rejects.toThrow(/^crash at/);
  });

  it('is found to be broken where the size does not wait for the zeros, without a journal', async () => {
    const commit = OrderedLog.prototype.commit;
    let growing = false;
    const { coverTail, end } = GrowOperation.prototype;
    vi.spyOn(GrowOperation.prototype, 'coverTail').mockImplementation(function* (this: GrowOperation) {
      yield* coverTail.call(this);
      growing = true;
    });
    vi.spyOn(GrowOperation.prototype, 'end').mockImplementation(function* (this: GrowOperation) {
      growing = false;
      yield* end.call(this);
    });
    vi.spyOn(OrderedLog.prototype, 'commit').mockImplementation(function* (this: OrderedLog) {
      if (!growing) yield* commit.call(this);
    });
    await expect(attack(setups.find(({ name }) => name === 'ordered')!, 3)).rejects.toThrow(/^crash at/);
  });
});
