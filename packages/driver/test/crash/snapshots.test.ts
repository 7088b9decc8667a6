/**
 * Making, applying and deleting a snapshot: whatever a crash keeps, the image is as it was before the operation or as
 * it was to become, disk and snapshots, and with a journal nothing is leaked. What is found broken where a protection
 * is taken away shows that the crashes would find it.
 */
import { type BlockDevice, MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { JournalEngine } from '@qcow2/journal';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type CheckFinding, checkImage, createImage, openImage, type Qcow2Image } from '../../src/index.ts';
import { MetadataUpdate } from '../../src/metadata-update.ts';
import { OrderedLog } from '../../src/ordered-log.ts';
import { random } from '../support/random.ts';
import { atCrash, crashAgain } from './support/crash-again.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

type Logging = 'journalled' | 'ordered' | 'lazy' | 'draft';
type Operation = 'create' | 'apply' | 'delete';

interface Setup {
  readonly logging: Logging;
  readonly operation: Operation;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly sizeBytes: number;
}

const ring = { sizeBytes: 65536, blockBytes: 512 } as const;
const journals = {
  journalled: ring,
  ordered: false,
  lazy: false,
  draft: { ...ring, profile: 'draft-2013' },
} as const;
/** In a small ring these go as many records: hundreds of clusters under several L2 tables. */
const shape = { clusterBytes: 512, refcountBits: 16, sizeBytes: 150_016 } as const;

const setups: Setup[] = (['create', 'apply', 'delete'] as const).flatMap((operation) => [
  ...(['journalled', 'ordered', 'lazy', 'draft'] as const).map((logging) => ({
    logging,
    operation,
    ...shape,
  })),
  { logging: 'journalled' as const, operation, clusterBytes: 4096, refcountBits: 4, sizeBytes: 1 << 20 },
]);

/** What an image shows: the disk, and each snapshot by its name. */
type Shown = ReadonlyMap<string, Buffer>;

async function contentOf(device: BlockDevice): Promise<Buffer> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return Buffer.from(bytes);
}

async function shownBy(image: Qcow2Image): Promise<Shown> {
  const shown = new Map([['the disk', await contentOf(image)]]);
  for (const { id, name } of image.snapshots) {
    shown.set(name, await contentOf(await image.openSnapshot({ id })));
  }
  return shown;
}

function isSame(left: Shown, right: Shown): boolean {
  if ([...left.keys()].join() !== [...right.keys()].join()) return false;
  return [...left].every(([name, bytes]) => right.get(name)!.equals(bytes));
}

/** A disk of which most is written, a snapshot of it, then writes here and there, and another size. */
async function makeStart(setup: Setup): Promise<MemoryDevice> {
  const start = new MemoryDevice();
  const { sizeBytes, clusterBytes, refcountBits, logging } = setup;
  const journal = journals[logging];
  await createImage(start, {
    sizeBytes,
    clusterBytes,
    refcountBits,
    journal,
    lazyRefcounts: logging === 'lazy',
  });
  const image = await openImage(start);
  const rng = random(5);
  await image.write(0, rng.bytes(sizeBytes - 9000));
  await image.createSnapshot({ name: 'first' });
  for (let i = 0; i < 30; i++) await image.write(rng.below(sizeBytes - 700), rng.bytes(600));
  await image.discard(sizeBytes / 2, 20 * clusterBytes);
  await image.grow(sizeBytes + 5120);
  await image.quiesce();
  image.abandon();
  return start;
}

async function perform(image: Qcow2Image, operation: Operation): Promise<void> {
  if (operation === 'create') await image.createSnapshot({ name: 'second' });
  else if (operation === 'apply') await image.applySnapshot('first');
  else await image.deleteSnapshot('first');
}

async function recorded(setup: Setup) {
  const start = await makeStart(setup);
  const device = new RecordingDevice(start.clone());
  const image = await openImage(device);
  // Something is under way when it begins: it is part of what the operation finds.
  await image.write(3000, new Uint8Array(700).fill(0xee));
  await image.flush();
  const before = await shownBy(image);
  const from = device.now;
  await perform(image, setup.operation);
  const done = device.now;
  const after = await shownBy(image);
  image.abandon();
  return { start, device, from, done, before, after };
}

/** Without intents what counts for nobody is leaked; what else is said of such clusters follows from it. */
function isExcused(setup: Setup, findings: readonly CheckFinding[], one: CheckFinding): boolean {
  if (setup.logging !== 'ordered' && setup.logging !== 'draft') return false;
  if (one.severity === 'leak') return true;
  const leaks = findings.filter(({ severity }) => severity === 'leak');
  return one.code === 'BAD_FIELD' && leaks.some(({ hostOffset }) => hostOffset === one.hostOffset);
}

async function judge(
  setup: Setup,
  crashed: MemoryDevice,
  before: Shown,
  after: Shown,
): Promise<'before' | 'after'> {
  const bytes = crashed.snapshot();
  const reader = await openImage(crashed, { readOnly: true });
  const seen = await shownBy(reader);
  expect(Buffer.compare(crashed.snapshot(), bytes)).toBe(0);
  const which = isSame(seen, after) ? 'after' : 'before';
  if (which === 'before') expect(isSame(seen, before), 'neither before nor after').toBe(true);
  if (setup.logging !== 'lazy') await expectSound(setup, crashed);
  const writer = await openImage(crashed);
  expect(isSame(await shownBy(writer), seen), 'recovered').toBe(true);
  // Every flag says what the refcounts say, or guests would change a snapshot now.
  for (let at = 0; at + 100 < writer.sizeBytes; at += 5000)
    await writer.write(at, new Uint8Array(100).fill(at));
  const frozen = new Map(await shownBy(writer));
  await writer.quiesce();
  writer.abandon();
  for (const [name, content] of seen) {
    if (name !== 'the disk') expect(frozen.get(name)!.equals(content), name).toBe(true);
  }
  await expectSound(setup, crashed);
  return which;
}

async function expectSound(setup: Setup, memory: MemoryDevice): Promise<void> {
  const { findings } = await checkImage(memory.clone());
  expect(findings.filter((one) => !isExcused(setup, findings, one)).slice(0, 3)).toEqual([]);
}

/** Crash at about so many moments of the operation. Returns what was found. */
async function attack(setup: Setup, points: number): Promise<Set<string>> {
  const { start, device, from, done, before, after } = await recorded(setup);
  const rng = random(setup.clusterBytes);
  const states = new CrashStates(start, device.log);
  const found = new Set<string>();
  for (let time = from; time <= device.now; time++) {
    states.advance(time);
    if (time < done && rng.below(done - from) >= points) continue;
    const crashed = states.draw(rng, rng.pick(keepings));
    const twice = await crashAgain(crashed, rng);
    const when = `${time} of ${from} to ${done}`;
    const which = await judge(setup, crashed, before, after).catch(atCrash(when));
    const again = await judge(setup, twice, before, after).catch(atCrash(`${when}, and of its recovery`));
    expect(again).toBe(which);
    if (time >= done) expect(which).toBe('after');
    found.add(which);
  }
  return found;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(setups)('$operation, $logging, clusters of $clusterBytes', (setup) => {
  it('[JRN-INTENT-005, JRN-INTENT-032, JRN-INTENT-033, JRN-INTENT-034, JRN-INTENT-035, JRN-INTENT-036] there or not, after any crash', async () => {
    expect(await attack(setup, 30)).toEqual(new Set(['before', 'after']));
  });
});

describe('is found to be broken', () => {
  const of = (operation: Operation, logging: Logging): Setup => ({ operation, logging, ...shape });

  it('where the log does not say how far the counting has come', async () => {
    const { submit } = JournalEngine.prototype;
    const said = new Map<number, Uint8Array>();
    vi.spyOn(JournalEngine.prototype, 'submit').mockImplementation(function (this: JournalEngine, change) {
      const { intent } = change;
      if (intent === undefined) return submit.call(this, change);
      // The first word on an operation stands, whatever is said later.
      const body = said.get(intent.id) ?? intent.body;
      said.set(intent.id, body);
      submit.call(this, { ...change, intent: { ...intent, body } });
    });
    await expect(attack(of('create', 'journalled'), 40)).rejects.toThrow(/^crash at/);
  });

  it('where the snapshot is named before the flags are cleared, without a journal', async () => {
    const { commit } = OrderedLog.prototype;
    const { setCopied } = MetadataUpdate.prototype;
    let counting = false;
    vi.spyOn(MetadataUpdate.prototype, 'setCopied').mockImplementation(function (
      this: MetadataUpdate,
      entryOffset,
      copied,
    ) {
      counting = !copied;
      setCopied.call(this, entryOffset, copied);
    });
    vi.spyOn(OrderedLog.prototype, 'commit').mockImplementation(function* (this: OrderedLog) {
      const skip = counting;
      counting = false;
      if (!skip) yield* commit.call(this);
    });
    await expect(attack(of('create', 'ordered'), 400)).rejects.toThrow(/^crash at/);
  });
});
