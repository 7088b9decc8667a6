/** Rebuilding refcounts: from any that are wrong, over every crash on the way, and not where counting does not help. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { decodeHeader } from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';
import { type Random, random } from './support/random.ts';

const sizeBytes = 2 * 1024 * 1024;

class Kept extends MemoryDevice {
  override close(): void {
    // The next image opens on it.
  }

  static from(bytes: Uint8Array): Kept {
    const device = new Kept({ sizeBytes: bytes.length });
    device.write(0, bytes);
    return device;
  }
}

interface Made {
  readonly bytes: Uint8Array;
  readonly content: Uint8Array;
}

/** An image with some clusters in use, closed cleanly, and what the guest sees. */
async function made(clusterBytes: number, refcountBits: number): Promise<Made> {
  const device = new Kept();
  await createImage(device, { sizeBytes, clusterBytes, refcountBits, lazyRefcounts: true });
  const image = await openImage(device, { lazyRefcounts: false });
  const content = new Uint8Array(sizeBytes);
  const rng = random(clusterBytes + refcountBits);
  for (let i = 0; i < 60; i++) {
    const offset = rng.below(sizeBytes / 512 - 20) * 512;
    const bytes = new Uint8Array(512 * (1 + rng.below(20))).fill(1 + i);
    await image.write(offset, bytes);
    content.set(bytes, offset);
  }
  await image.close();
  return { bytes: device.snapshot(), content };
}

function headerOf(bytes: Uint8Array) {
  return decodeHeader(bytes.slice(0, 512 * 128));
}

function markDirty(bytes: Uint8Array): Uint8Array {
  bytes[79]! |= 1;
  return bytes;
}

function entriesOf(bytes: Uint8Array, at: number, count: number): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset + at, count * 8);
}

/** Offsets of the refcount blocks, by their place in the table. */
function blocksOf(bytes: Uint8Array): number[] {
  const header = headerOf(bytes);
  const count = (header.refcountTableClusters * 2 ** header.clusterBits) / 8;
  const table = entriesOf(bytes, header.refcountTableOffset, count);
  return Array.from({ length: count }, (_, i) => Number(table.getBigUint64(i * 8)));
}

/** Offset of the first L2 table that the active L1 table names. */
function firstL2(bytes: Uint8Array): number {
  const header = headerOf(bytes);
  const l1 = entriesOf(bytes, header.l1Offset, header.l1Entries);
  for (let i = 0; i < header.l1Entries; i++) {
    const offset = l1.getUint32(i * 8 + 4) & ~511;
    if (offset !== 0) return offset;
  }
  return 0;
}

/** Offsets of the entries of an L2 table that name a cluster. */
function entriesInUse(bytes: Uint8Array, table: number): number[] {
  const { clusterBits } = headerOf(bytes);
  const entries: number[] = [];
  for (let at = table; at < table + 2 ** clusterBits; at += 8) {
    if (entriesOf(bytes, at, 1).getUint32(4) > 511) entries.push(at);
  }
  return entries;
}

/** Make a mess of the refcounts: noise in the blocks, some blocks gone. */
function scramble(bytes: Uint8Array, rng: Random): void {
  const header = headerOf(bytes);
  const clusterBytes = 2 ** header.clusterBits;
  for (const [index, offset] of blocksOf(bytes).entries()) {
    if (offset === 0) continue;
    if (rng.below(4) === 0) entriesOf(bytes, header.refcountTableOffset + index * 8, 1).setBigUint64(0, 0n);
    else if (rng.below(3) > 0) bytes.set(rng.bytes(clusterBytes), offset);
  }
}

async function expectWhole(device: Kept, content: Uint8Array): Promise<void> {
  const image = await openImage(device);
  const seen = new Uint8Array(content.length);
  await image.read(0, seen);
  expect(Buffer.compare(seen, content)).toBe(0);
  await image.close();
  expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
}

const widths = [1, 2, 4, 8, 16, 32, 64];

describe('rebuilding refcounts', () => {
  it.each(widths)('[LAZ-005, FEA-001] makes any refcounts of %i bits right', async (refcountBits) => {
    for (const clusterBytes of [512, 4096]) {
      const { bytes, content } = await made(clusterBytes, refcountBits);
      for (let seed = 1; seed <= 6; seed++) {
        const broken = markDirty(bytes.slice());
        scramble(broken, random(seed));
        const device = Kept.from(broken);
        await expectWhole(device, content);
        expect(device.snapshot()[79]! & 1).toBe(0);
      }
    }
  });

  it('[LAZ-005] makes the refcount table larger where clusters in use are beyond it', async () => {
    // One block of 64 refcounts of 64 bits for each 32 KiB of file: a table of one cluster covers 2 MiB.
    const { bytes, content } = await made(512, 64);
    const header = headerOf(bytes);
    const moved = new Uint8Array(6 * 1024 * 1024);
    moved.set(bytes);
    const table = firstL2(moved);
    for (const [i, at] of entriesInUse(moved, table).slice(0, 3).entries()) {
      const from = entriesOf(moved, at, 1).getUint32(4) & ~511;
      const to = 4 * 1024 * 1024 + i * 512 * 1024;
      moved.copyWithin(to, from, from + 512);
      entriesOf(moved, at, 1).setBigUint64(0, 0x8000_0000_0000_0000n | BigInt(to));
    }
    const device = Kept.from(markDirty(moved));
    const image = await openImage(device);
    expect(image.repaired!.blocksAdded).toBeGreaterThan(3);
    expect(image.header.refcountTableClusters).toBeGreaterThan(header.refcountTableClusters);
    await image.close();
    await expectWhole(device, content);
  });

  it('[LAZ-005] sets the copied flags by the new refcounts', async () => {
    const { bytes, content } = await made(4096, 16);
    const broken = markDirty(bytes.slice());
    const table = firstL2(broken);
    const entries = entriesInUse(broken, table);
    for (const at of entries.slice(0, 5)) broken[at]! &= 0x7f;
    broken[headerOf(broken).l1Offset]! &= 0x7f;
    const device = Kept.from(broken);
    const image = await openImage(device);
    expect(image.repaired).toMatchObject({ flagsCorrected: 6, raised: 0, lowered: 0 });
    await image.close();
    await expectWhole(device, content);
    // Two guest clusters in one host cluster: neither may be written in place.
    const shared = markDirty(bytes.slice());
    shared.copyWithin(entries[1]!, entries[0]!, entries[0]! + 8);
    const twins = await openImage(Kept.from(shared));
    expect(twins.repaired).toMatchObject({ flagsCorrected: 2, raised: 1, lowered: 1 });
    await twins.close();
  });

  it('makes the file long enough for clusters whose length was lost: they read as zeros', async () => {
    const { bytes, content } = await made(4096, 16);
    const cut = markDirty(bytes.slice(0, -4096));
    const device = Kept.from(cut);
    const image = await openImage(device);
    const seen = new Uint8Array(sizeBytes);
    await image.read(0, seen);
    const differing = Array.from({ length: sizeBytes / 4096 }, (_, i) => i * 4096).filter(
      (at) => Buffer.compare(seen.subarray(at, at + 4096), content.subarray(at, at + 4096)) !== 0,
    );
    expect(differing).toHaveLength(1);
    expect(seen.subarray(differing[0], differing[0]! + 4096).every((byte) => byte === 0)).toBe(true);
    await image.close();
    await expectWhole(device, seen);
  });

  describe('what counting can not put right', () => {
    type Damage = (bytes: Uint8Array) => void;
    const damages: [string, string, number, Damage][] = [
      ['a guest cluster in the header', 'OVERLAP', 16, (bytes) => mapTo(bytes, 0)],
      ['a guest cluster in the L1 table', 'OVERLAP', 16, (bytes) => mapTo(bytes, headerOf(bytes).l1Offset)],
      ['a guest cluster in an L2 table', 'OVERLAP', 16, (bytes) => mapTo(bytes, firstL2(bytes))],
      ['a guest cluster in a refcount block', 'OVERLAP', 16, (bytes) => mapTo(bytes, blocksOf(bytes)[0]!)],
      ['a guest cluster far beyond the file', 'TRUNCATED', 16, (bytes) => mapTo(bytes, 2 ** 40)],
      [
        'an L2 table beyond the file',
        'TRUNCATED',
        16,
        (bytes) => {
          const { l1Offset } = headerOf(bytes);
          entriesOf(bytes, l1Offset, 1).setBigUint64(0, 0x8000_0000_4000_0000n);
        },
      ],
      [
        'one block for two ranges',
        'OVERLAP',
        16,
        (bytes) => {
          const { refcountTableOffset } = headerOf(bytes);
          bytes.copyWithin(refcountTableOffset + 8, refcountTableOffset, refcountTableOffset + 8);
        },
      ],
      [
        'a reserved bit in an entry',
        'RESERVED_SET',
        16,
        (bytes) => {
          bytes[entriesInUse(bytes, firstL2(bytes))[0]! + 7]! |= 2;
        },
      ],
      [
        'more references than a refcount of one bit holds',
        'REFCOUNT_WRONG',
        1,
        (bytes) => {
          const [first, second] = entriesInUse(bytes, firstL2(bytes));
          bytes.copyWithin(second!, first!, first! + 8);
        },
      ],
    ];

    function mapTo(bytes: Uint8Array, hostOffset: number): void {
      const at = entriesInUse(bytes, firstL2(bytes))[0]!;
      // An entry of zero bytes would be none at all: that one is given the flag alone, and is damage as well.
      entriesOf(bytes, at, 1).setBigUint64(0, 0x8000_0000_0000_0000n | BigInt(hostOffset));
    }

    it.each(damages)(
      '[LAZ-007] is refused, and nothing written: %s',
      async (name, code, refcountBits, damage) => {
        const { bytes } = await made(4096, refcountBits);
        const broken = markDirty(bytes.slice());
        damage(broken);
        const device = Kept.from(broken);
        const refusal = openImage(device);
        if (name.endsWith('header')) await expect(refusal).rejects.toMatchObject({ name: 'FormatError' });
        else await expect(refusal).rejects.toMatchObject({ name: 'FormatError', code });
        expect(Buffer.compare(device.snapshot(), broken)).toBe(0);
      },
    );
  });

  it('[LAZ-005] is repeated after a crash at any write, with all, none, or all but one of what was pending kept', async () => {
    const { bytes, content } = await made(512, 64);
    const broken = markDirty(bytes.slice());
    scramble(broken, random(11));
    // Blocks of the first ranges are gone for sure: new ones are made.
    const { refcountTableOffset } = headerOf(broken);
    broken.fill(0, refcountTableOffset + 16, refcountTableOffset + 32);
    const recording = new RecordingDevice(Kept.from(broken));
    const image = await openImage(recording);
    expect(image.repaired!.blocksAdded).toBeGreaterThan(1);
    image.abandon();
    const writes = recording.log.filter((one) => one.kind !== 'flush');
    const flushed = (serial: number, at: number): boolean =>
      recording.log.some((one) => one.kind === 'flush' && one.startedAt > serial && one.completedAt! <= at);
    let states = 0;
    for (const { startedAt: crash } of [...recording.log, { startedAt: Number.MAX_SAFE_INTEGER }]) {
      const done = writes.filter((one) => one.startedAt < crash);
      const pending = done.filter((one) => !flushed(one.completedAt!, crash));
      const lost = [[], pending, ...pending.slice(0, 12).map((one) => [one])];
      for (const away of lost) {
        const state = Kept.from(broken);
        for (const one of done) {
          if (away.includes(one)) continue;
          if (one.kind === 'write') state.write(one.offset, one.bytes);
          else if (one.kind === 'resize') state.resize(one.sizeBytes);
        }
        await expectWhole(state, content);
        states++;
      }
    }
    expect(states).toBeGreaterThan(60);
  });
});
