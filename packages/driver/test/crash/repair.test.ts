/**
 * A repair that crashes at each of its writes, with all, none or all but one of what was pending kept: no cluster in use counts
 * as free that did not before, no guest byte is another, and repairing again ends where the first would have.
 */
import { RecordingDevice } from '@qcow2/block-device';
import { findHeaderExtension } from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, openImage, repairImage } from '../../src/index.ts';
import { ImageBytes, Kept, type MadeOptions, madeImage } from '../support/image-bytes.ts';
import { random } from '../support/random.ts';

const copied = 1n << 63n;

/** A bit of everything that a repair puts right. */
function damage(image: ImageBytes): void {
  const rng = random(image.bytes.length);
  const entries = image.l2();
  image.setRefcount(image.target(entries[0]!) / image.clusterBytes, 0);
  image.setRefcount(image.target(entries[1]!) / image.clusterBytes, 2);
  image.setRefcount(image.bytes.length / image.clusterBytes + 3, 1);
  image.flip(entries[2]!, copied);
  image.flip(entries[3]!, 1n << 57n);
  image.flip(image.l1()[0]!, 2n);
  image.set(entries[5]!, image.get(entries[4]!));
  // A block of which nothing is known, where there are several.
  const blocks = image.blocks();
  if (blocks.length > 1) image.set(rng.pick(blocks), 512n * 3n + 8n);
}

/** Host clusters that are in use and count as free. */
async function takenForFree(device: Kept): Promise<ReadonlySet<number>> {
  const { findings } = await checkImage(device, { maxFindings: 1_000_000 });
  const free = findings.filter(
    ({ code, message }) => code === 'REFCOUNT_WRONG' && / has refcount 0 /.test(message),
  );
  return new Set(free.map(({ hostOffset }) => hostOffset!));
}

async function seen(device: Kept, length: number): Promise<Uint8Array> {
  const image = await openImage(device, { readOnly: true });
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 512) {
    try {
      await image.read(at, bytes.subarray(at, at + 512));
    } catch {
      // A damaged entry: what it maps can not be read before it is repaired.
      bytes.fill(0xee, at, at + 512);
    }
  }
  image.abandon();
  return bytes;
}

const images: [string, MadeOptions][] = [
  ['without a journal', { clusterBytes: 512, refcountBits: 64, sizeBytes: 128 * 1024 }],
  [
    'with a journal',
    {
      clusterBytes: 512,
      refcountBits: 64,
      sizeBytes: 128 * 1024,
      journal: { sizeBytes: 65536, blockBytes: 512 },
    },
  ],
  [
    'with the draft’s journal',
    { clusterBytes: 4096, sizeBytes: 128 * 1024, journal: { sizeBytes: 65536, profile: 'draft-2013' } },
  ],
];

describe('a repair that crashes', () => {
  it.each(images)('[REP-002, REP-008] %s is no worse, and is repaired again', async (_name, options) => {
    const { bytes } = await madeImage(options);
    damage(new ImageBytes(bytes));
    const before = Kept.from(bytes);
    const freeBefore = await takenForFree(before);
    const seenBefore = await seen(before, options.sizeBytes!);
    const whole = Kept.from(bytes);
    await repairImage(whole, { repair: 'all' });
    const content = await seen(whole, options.sizeBytes!);
    for (let at = 0; at < content.length; at += 512) {
      if (seenBefore[at] !== 0xee) expect(content[at]).toBe(seenBefore[at]);
    }
    const recording = new RecordingDevice(Kept.from(bytes));
    expect((await repairImage(recording, { repair: 'all' })).left).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
    let states = 0;
    for (const state of crashStates(recording, bytes)) {
      const fresh = [...(await takenForFree(state))].filter((offset) => !freeBefore.has(offset));
      expect(fresh, `state ${states}`).toEqual([]);
      const report = await repairImage(state, { repair: 'all' });
      expect(report.left, `state ${states}`).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
      expect(Buffer.compare(await seen(state, content.length), content), `state ${states}`).toBe(0);
      states++;
    }
    expect(states).toBeGreaterThan(15);
  });
});

/** What the next opening would not let pass, of a journal that is dirty. */
const aroundTheJournal: [string, (image: ImageBytes) => void][] = [
  ['a cluster of the journal that counts as used', (image) => image.setRefcount(areaCluster(image), 1)],
  ['a reserved bit of the refcount table', (image) => image.flip(image.blocks()[0]!, 2n)],
];

function areaCluster(image: ImageBytes): number {
  const extension = findHeaderExtension(image.header.extensions, headerExtensionTypes.journal)!;
  const at = new DataView(extension.buffer, extension.byteOffset).getBigUint64(16);
  return Number(at) / image.clusterBytes;
}

describe('a repair beside a journal', () => {
  const options = {
    clusterBytes: 4096,
    sizeBytes: 128 * 1024,
    journal: { sizeBytes: 65536, blockBytes: 512 },
  };

  it.each(aroundTheJournal)('[REP-009] crashes with %s, and is repaired again', async (_name, spoil) => {
    const { bytes, content } = await madeImage(options);
    const image = new ImageBytes(bytes);
    spoil(image);
    image.flip(image.l2()[0]!, copied);
    const recording = new RecordingDevice(Kept.from(bytes));
    await repairImage(recording, { repair: 'all' });
    let states = 0;
    for (const state of crashStates(recording, bytes)) {
      const report = await repairImage(state, { repair: 'all' });
      expect(report.left, `state ${states}`).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
      expect(Buffer.compare(await seen(state, content.length), content), `state ${states}`).toBe(0);
      states++;
    }
    expect(states).toBeGreaterThan(5);
  });

  it.each(aroundTheJournal)('[REP-008] replays a dirty one first, with %s', async (_name, spoil) => {
    const { bytes, content } = await madeImage(options);
    const before = Kept.from(bytes);
    const image = await openImage(before);
    // Where a cluster is: a damaged refcount table has nowhere to count another one.
    const at = content.findIndex((byte) => byte !== 0);
    await image.write(at, new Uint8Array(512).fill(77));
    await image.flush();
    image.abandon();
    content.fill(77, at, at + 512);
    const damaged = before.snapshot();
    spoil(new ImageBytes(damaged));
    const device = Kept.from(damaged);
    const { left } = await repairImage(device, { repair: 'all' });
    expect(left).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
    expect(Buffer.compare(await seen(device, content.length), content)).toBe(0);
  });
});

function* crashStates(recording: RecordingDevice, bytes: Uint8Array): Generator<Kept> {
  const writes = recording.log.filter((one) => one.kind !== 'flush');
  const flushed = (serial: number, at: number): boolean =>
    recording.log.some((one) => one.kind === 'flush' && one.startedAt > serial && one.completedAt! <= at);
  for (const { startedAt: crash } of [...recording.log, { startedAt: Number.MAX_SAFE_INTEGER }]) {
    const done = writes.filter((one) => one.startedAt < crash);
    const pending = done.filter((one) => !flushed(one.completedAt!, crash));
    for (const away of [[], pending, ...pending.slice(0, 12).map((one) => [one])]) {
      const state = Kept.from(bytes);
      for (const one of done) {
        if (away.includes(one)) continue;
        if (one.kind === 'write') state.write(one.offset, one.bytes);
        else if (one.kind === 'resize') state.resize(one.sizeBytes);
      }
      yield state;
    }
  }
}
