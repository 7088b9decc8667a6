/** Journals of every size, and a journal that changes its size: written, wrapped, crashed, recovered. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { encodeHeader } from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { type CreateOptions, checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { CrashStates, keepings } from './crash/support/crash-states.ts';
import { random } from './support/random.ts';

const kibibyte = 1024;
const mebibyte = 1024 * kibibyte;

interface Shape {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly clusterBytes: number;
}

/** The smallest and the largest area, and one between them, with every block size that fits. */
function* shapes(): Generator<Shape> {
  for (const clusterBytes of [512, 4 * kibibyte, 64 * kibibyte, 2 * mebibyte]) {
    for (const sizeBytes of [64 * kibibyte, mebibyte, 24 * mebibyte]) {
      for (let blockBytes = 512; blockBytes <= clusterBytes; blockBytes *= 4) {
        // Two slots and eight blocks, in whole clusters.
        const stride = Math.max(blockBytes, 4096);
        const lengthBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
        if (lengthBytes >= 2 * stride + 8 * blockBytes) yield { sizeBytes, blockBytes, clusterBytes };
      }
    }
  }
}

const guestBytes = 32 * mebibyte;

/** What was flushed, by guest page. */
type Flushed = Map<number, number>;

async function writeSome(image: Qcow2Image, flushed: Flushed, writes: number, seed: number): Promise<void> {
  const rng = random(seed);
  for (let i = 0; i < writes; i++) {
    const at = rng.below(guestBytes / 4096);
    const value = 1 + rng.below(255);
    await image.write(at * 4096, new Uint8Array(4096).fill(value));
    flushed.set(at, value);
    if (i % 3 === 0) await image.flush();
  }
  await image.flush();
}

async function expectAll(image: Qcow2Image, flushed: Flushed): Promise<void> {
  const bytes = new Uint8Array(4096);
  for (const [at, value] of flushed) {
    await image.read(at * 4096, bytes);
    if (!bytes.every((byte) => byte === value)) expect.fail(`page ${at} is not ${value}`);
  }
}

describe('a journal', () => {
  it.each([...shapes()])(
    '[JRN-BIND-008, JRN-SLOT-004] of $sizeBytes bytes in blocks of $blockBytes, clusters of $clusterBytes',
    async (shape) => {
      const memory = new MemoryDevice();
      const { clusterBytes, sizeBytes, blockBytes } = shape;
      await createImage(memory, { sizeBytes: guestBytes, clusterBytes, journal: { sizeBytes, blockBytes } });
      const flushed: Flushed = new Map();
      const image = await openImage(memory);
      const { ringBytes } = image.journalStatus()!.use!;
      // Around the ring, where that does not take too long.
      const writes = Math.min(700, Math.ceil((ringBytes * 1.3) / Math.max(blockBytes, 4096)));
      await writeSome(image, flushed, writes, 1);
      image.abandon();
      const again = await openImage(memory);
      expect(again.journalStatus()).toMatchObject({ blockBytes, state: 'clean' });
      await expectAll(again, flushed);
      await writeSome(again, flushed, 20, 2);
      await again.quiesce();
      again.abandon();
      expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
    },
  );

  it('of 1 GiB is made, used and replayed', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: guestBytes, journal: { sizeBytes: 1024 * mebibyte } });
    expect(memory.sizeBytes).toBeGreaterThan(1024 * mebibyte);
    const flushed: Flushed = new Map();
    const image = await openImage(memory);
    expect(image.journalStatus()).toMatchObject({ lengthBytes: 1024 * mebibyte });
    await writeSome(image, flushed, 500, 3);
    image.abandon();
    const again = await openImage(memory);
    await expectAll(again, flushed);
    again.abandon();
  });

  it.each([
    [{ sizeBytes: 32 * kibibyte }, 'JRN-BIND-008'],
    [{ sizeBytes: 1025 * mebibyte }, 'JRN-BIND-008'],
    [{ blockBytes: 256 }, 'JRN-SLOT-004'],
    [{ blockBytes: 3000 }, 'JRN-SLOT-004'],
    [{ blockBytes: 128 * kibibyte }, 'JRN-SLOT-004'],
  ])('of %o is refused, and nothing has happened', async (sizes, clause) => {
    const memory = new MemoryDevice();
    const journal = { sizeBytes: 128 * kibibyte };
    await createImage(memory, { sizeBytes: mebibyte, clusterBytes: 4096, journal });
    const image = await openImage(memory);
    const before = memory.snapshot();
    await expect(image.resizeJournal(sizes)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      context: { clause },
    });
    expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
    await image.write(0, new Uint8Array(512));
    await image.flush();
    await image.close();
  });
});

function copyOf(memory: MemoryDevice): MemoryDevice {
  const copy = new MemoryDevice();
  copy.write(0, memory.snapshot());
  return copy;
}

describe('a journal that gets another size', () => {
  const sizes = { sizeBytes: 64 * kibibyte, blockBytes: 512 };

  async function fresh() {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: mebibyte, clusterBytes: 4096, journal: sizes });
    return memory;
  }

  it('keeps what was flushed, what is not given, and gives its range back', async () => {
    const memory = await fresh();
    const image = await openImage(memory);
    await image.write(5000, new Uint8Array(3000).fill(4));
    await image.flush();
    const before = image.journalStatus()!;
    await image.resizeJournal({ sizeBytes: 256 * kibibyte });
    const after = image.journalStatus()!;
    expect(after).toMatchObject({ lengthBytes: 256 * kibibyte, blockBytes: 512, state: 'clean' });
    expect(after.hostOffset).not.toBe(before.hostOffset);
    // The next clusters that are needed come out of the old range, and hold nothing of it.
    await image.write(300_000, new Uint8Array(512).fill(6));
    await image.quiesce();
    const extra = new Uint8Array(8192);
    await image.read(300_000 - 512, extra);
    expect(extra.subarray(1024).every((byte) => byte === 0)).toBe(true);
    await image.resizeJournal({ blockBytes: 4096 });
    expect(image.journalStatus()).toMatchObject({ lengthBytes: 256 * kibibyte, blockBytes: 4096 });
    await image.write(9000, new Uint8Array(3000).fill(5));
    await image.flush();
    image.abandon();
    const again = await openImage(memory);
    const byte = new Uint8Array(1);
    await again.read(7999, byte);
    expect(byte[0]).toBe(4);
    await again.read(11_999, byte);
    expect(byte[0]).toBe(5);
    again.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('is refused where there is none', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: mebibyte });
    const image = await openImage(memory);
    await expect(image.resizeJournal(sizes)).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
    await image.close();
  });

  it('[JRN-BIND-024] after a crash at any point is the old or the new one, whole, on a clean image', async () => {
    const memory = await fresh();
    const image = await openImage(memory);
    await image.write(5000, new Uint8Array(3000).fill(4));
    await image.quiesce();
    image.abandon();
    const start = copyOf(memory);
    const device = new RecordingDevice(copyOf(memory));
    const open = await openImage(device);
    await open.resizeJournal({ sizeBytes: 128 * kibibyte, blockBytes: 1024 });
    open.abandon();
    const states = new CrashStates(start, device.log);
    const rng = random(7);
    const found = { old: 0, new: 0 };
    const end = Math.max(...device.log.map(({ startedAt }) => startedAt)) + 2;
    for (let time = 1; time <= end; time++) {
      states.advance(time);
      for (const keeping of keepings) {
        for (let draw = 0; draw < (states.pendingCount > 1 ? 4 : 1); draw++) {
          const crashed = states.draw(rng, keeping);
          expect(await checkImage(crashed)).toMatchObject({ corruptions: 0, leaks: 0 });
          const again = await openImage(crashed);
          const status = again.journalStatus()!;
          expect(status.state).toBe('clean');
          const isNew = status.lengthBytes === 128 * kibibyte;
          expect(status.blockBytes).toBe(isNew ? 1024 : 512);
          found[isNew ? 'new' : 'old']++;
          const bytes = new Uint8Array(3000);
          await again.read(5000, bytes);
          expect(bytes.every((byte) => byte === 4)).toBe(true);
          again.abandon();
        }
      }
    }
    expect(found.old).toBeGreaterThan(10);
    expect(found.new).toBeGreaterThan(0);
  });
});

describe('a header without room for a journal', () => {
  /** All of the first cluster but a sector or two is an extension that nobody here knows. */
  async function crowded(journal: CreateOptions['journal'] = false): Promise<MemoryDevice> {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: mebibyte, clusterBytes: 4096, journal });
    const { header } = await openImage(memory, { readOnly: true });
    const extensions = [...header.extensions, { type: 0x12345678, data: new Uint8Array(3200).fill(1) }];
    memory.write(0, encodeHeader({ ...header, extensions }));
    return memory;
  }

  it('is refused by name, changes nothing, and ends nothing', async () => {
    const memory = await crowded();
    const image = await openImage(memory);
    const before = memory.snapshot();
    await expect(image.enableJournal()).rejects.toMatchObject({ code: 'NO_SPACE' });
    expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
    await image.write(0, new Uint8Array(512).fill(3));
    await image.flush();
    image.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('is refused before the journal that it has is taken away for another one', async () => {
    const profiles = ['v1', 'draft-2013'] as const;
    for (const [from, to] of [profiles, [...profiles].reverse() as ['draft-2013', 'v1']]) {
      const memory = await crowded({ profile: from, sizeBytes: 65536, blockBytes: 512 });
      const image = await openImage(memory);
      const before = memory.snapshot();
      const wanted = { profile: to, sizeBytes: 65536, blockBytes: 512 };
      await expect(image.convertJournal(wanted)).rejects.toMatchObject({ code: 'NO_SPACE' });
      expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
      await image.write(0, new Uint8Array(512).fill(3));
      await image.flush();
      expect(image.journalStatus()).toMatchObject({ profile: from, state: 'dirty' });
      image.abandon();
      expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
    }
  });
});
