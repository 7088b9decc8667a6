/**
 * A journal is put in the place of another one, and the machine stops in between: at every moment of the log, with
 * nothing kept of what was not flushed, everything, and random parts. The image must open, show what was flushed, and be
 * without error and without leak, with the one journal, with none, or with the other; and so after a second crash while it
 * recovers.
 */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type JournalOptions, openImage, type Qcow2Image } from '../../src/index.ts';
import { random } from '../support/random.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

const journals = {
  v1: { profile: 'v1', sizeBytes: 65536, blockBytes: 512 },
  draft: { profile: 'draft-2013', sizeBytes: 65536, blockBytes: 512 },
  larger: { profile: 'draft-2013', sizeBytes: 131072, blockBytes: 1024 },
} as const satisfies Record<string, JournalOptions>;

const sizeBytes = 32 * 1024;
const sound = { corruptions: 0, leaks: 0, checkErrors: 0 };

/** Clusters of 1 KiB and refcounts of 64 bits: 128 to a block, so that a journal's clusters need blocks of their own. */
async function created(journal: JournalOptions | false): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  await createImage(device, {
    sizeBytes,
    clusterBytes: 1024,
    refcountBits: 64,
    journal,
    random: (into) => into.set(random(7).bytes(into.length)),
  });
  return device;
}

async function opened(device: MemoryDevice | RecordingDevice, readOnly = false): Promise<Qcow2Image> {
  const tuning = { commitIntervalMs: 0 };
  return await openImage(device, {
    readOnly,
    journal: tuning,
    random: (into) => into.set(random(9).bytes(into.length)),
  });
}

async function contentOf(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

async function written(device: MemoryDevice): Promise<Uint8Array> {
  const image = await opened(device);
  for (let i = 0; i < 6; i++) await image.write(i * 5 * 1024, new Uint8Array(700).fill(i + 1));
  await image.quiesce();
  image.abandon();
  return await contentOf(await opened(device, true));
}

/** What a crash left opens for reading and for writing, is sound, and can go on. */
async function judge(
  device: MemoryDevice,
  expected: Uint8Array,
  profiles: Set<string>,
): Promise<RecordingDevice> {
  expect(await checkImage(device)).toMatchObject(sound);
  const reader = await opened(device, true);
  expect(await contentOf(reader)).toEqual(expected);
  const recorder = new RecordingDevice(device);
  const image = await opened(recorder);
  profiles.add(image.journalStatus()?.profile ?? 'none');
  expect(await contentOf(image)).toEqual(expected);
  await image.quiesce();
  image.abandon();
  expect(await checkImage(device)).toMatchObject(sound);
  return recorder;
}

const cases = [
  ['v1', 'draft'],
  ['draft', 'v1'],
  ['draft', 'larger'],
] as const;

describe('journal convert', () => {
  it.each(cases)(
    '[JD13-BIND-007] from %s to %s leaves the one, none or the other, wherever it is cut off',
    async (from, to) => {
      const start = await created(journals[from]);
      const expected = await written(start);
      const recorder = new RecordingDevice(start.clone());
      const image = await opened(recorder);
      await image.convertJournal(journals[to]);
      image.abandon();
      const end = Math.max(...recorder.log.map(({ completedAt }) => completedAt ?? 0)) + 2;
      const states = new CrashStates(start, recorder.log);
      const rng = random(11);
      const profiles = new Set<string>();
      // About a hundred moments, others in each case.
      const stride = Math.ceil(end / 50);
      for (let time = 0; time < end; time += 1 + rng.below(stride)) {
        states.advance(time);
        if (states.pendingCount === 0) continue;
        for (const keeping of ['nothing', 'everything', rng.pick(keepings)] as const) {
          const device = states.draw(rng, keeping);
          const before = device.clone();
          const recovery = await judge(device, expected, profiles);
          if (recovery.log.length === 0 || rng.below(4) !== 0) continue;
          // A crash of the recovery, at a moment of its own.
          const again = new CrashStates(before, recovery.log);
          again.advance(rng.below(2 * recovery.log.length + 2));
          await judge(again.draw(rng, rng.pick(keepings)), expected, profiles);
        }
      }
      expect([...profiles].sort()).toEqual(
        [...new Set([journals[from].profile, 'none', journals[to].profile])].sort(),
      );
    },
  );
});
