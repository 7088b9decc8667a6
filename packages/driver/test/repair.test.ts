/** Repair: what is put right of each damage, what is left, and that nothing else changes. */
import { findHeaderExtension } from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, openImage, type RepairMode, type RepairReport, repairImage } from '../src/index.ts';
import { ImageBytes, Kept, type MadeOptions, madeImage } from './support/image-bytes.ts';
import { type Random, random } from './support/random.ts';

const clusterBytes = 4096;
const copied = 1n << 63n;
const journal = { sizeBytes: 65536 };

interface Repaired {
  readonly report: RepairReport;
  readonly before: Uint8Array;
  readonly content: Uint8Array;
  readonly device: Kept;
}

async function repaired(
  repair: RepairMode,
  damage: (image: ImageBytes) => void,
  options: Partial<MadeOptions> = {},
): Promise<Repaired> {
  const { bytes, content } = await madeImage({ clusterBytes, ...options });
  damage(new ImageBytes(bytes));
  const device = Kept.from(bytes);
  const report = await repairImage(device, { repair });
  return { report, before: bytes, content, device };
}

async function read(device: Kept, length: number): Promise<Uint8Array> {
  const image = await openImage(device, { readOnly: true });
  const seen = new Uint8Array(length);
  await image.read(0, seen);
  image.abandon();
  return seen;
}

async function expectSound({ report, content, device }: Repaired): Promise<void> {
  expect(report.left).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  expect(Buffer.compare(await read(device, content.length), content)).toBe(0);
}

describe('repairing refcounts', () => {
  it('writes nothing where nothing is wrong', async () => {
    const { report, before, device } = await repaired('all', () => undefined);
    expect(report).toMatchObject({ corruptionsFixed: 0, leaksFixed: 0, fixes: [] });
    expect(Buffer.compare(device.snapshot(), before)).toBe(0);
  });

  it('lowers what is too high, and sets the flags of what is not shared', async () => {
    const result = await repaired('leaks', (image) => {
      image.setRefcount(image.target(image.l2()[0]!) / clusterBytes, 2);
      image.flip(image.l2()[0]!, copied);
      image.setRefcount(200, 3);
    });
    expect(result.report).toMatchObject({ corruptionsFixed: 1, leaksFixed: 2 });
    await expectSound(result);
  });

  it('raises nothing where only leaks are to be repaired', async () => {
    const { report } = await repaired('leaks', (image) => {
      image.setRefcount(image.target(image.l2()[0]!) / clusterBytes, 0);
      image.setRefcount(200, 1);
    });
    expect(report).toMatchObject({ corruptionsFixed: 0, leaksFixed: 1, left: { corruptions: 2, leaks: 0 } });
  });

  it.each([1, 2, 4, 8, 16, 32, 64])('[REP-002] puts any refcounts of %i bits right', async (refcountBits) => {
    for (let seed = 1; seed <= 3; seed++) {
      const scramble = (image: ImageBytes): void => {
        const rng = random(seed);
        for (const at of image.blocks()) {
          const block = Number(image.get(at));
          image.bytes.set(rng.bytes(image.clusterBytes), block);
        }
      };
      await expectSound(await repaired('all', scramble, { refcountBits }));
      await expectSound(await repaired('all', scramble, { refcountBits, clusterBytes: 512 }));
    }
  });

  it('two guest clusters in one host cluster share it: neither is written in place', async () => {
    const { report, device } = await repaired('all', (image) => {
      const [first, second] = image.l2();
      image.set(second!, image.get(first!));
    });
    expect(report).toMatchObject({ found: { corruptions: 1, leaks: 1 }, corruptionsFixed: 3, leaksFixed: 1 });
    expect(report.left).toMatchObject({ corruptions: 0, leaks: 0 });
    const image = await openImage(device);
    await image.write(0, new Uint8Array(1024 * 1024).fill(9));
    await image.close();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('what a refcount can not hold is left, and said', async () => {
    const { report } = await repaired(
      'all',
      (image) => {
        const [first, second] = image.l2();
        image.set(second!, image.get(first!));
      },
      { refcountBits: 1 },
    );
    expect(report.left.corruptions).toBe(1);
    expect(report.left.findings[0]).toMatchObject({ code: 'REFCOUNT_WRONG' });
  });
});

describe('repairing the refcount table', () => {
  const damages: [string, (image: ImageBytes) => void][] = [
    ['leads off a boundary', (image) => image.flip(image.blocks()[0]!, 512n)],
    ['leads beyond the end of the file', (image) => image.flip(image.blocks()[0]!, 1n << 40n)],
    ['is empty', (image) => image.set(image.blocks()[0]!, 0n)],
    [
      'leads to the block of another',
      (image) => image.set(image.blocks()[0]! + 8, image.get(image.blocks()[0]!)),
    ],
    ['leads to an L2 table', (image) => image.set(image.blocks()[0]!, BigInt(image.target(image.l1()[0]!)))],
    [
      'leads to the refcount table',
      (image) => image.set(image.blocks()[0]!, BigInt(image.header.refcountTableOffset)),
    ],
    [
      'leads to a cluster of a guest',
      (image) => image.set(image.l2()[0]!, copied | image.get(image.blocks()[0]!)),
    ],
  ];

  it.each(damages)('[REP-004] makes a new block where the entry %s', async (name, damage) => {
    for (const options of [{}, { journal }, { refcountBits: 64, clusterBytes: 512, sizeBytes: 65536 * 4 }]) {
      const result = await repaired('all', damage, options);
      if (result.report.found.corruptions === 0) continue;
      // The guest's own cluster was overwritten in its entry by that one damage; the rest is as it was.
      if (name.endsWith('guest')) expect(result.report.left).toMatchObject({ corruptions: 0, leaks: 0 });
      else await expectSound(result);
    }
  });

  it('[REP-005] clears reserved bits of an entry that leads to a block', async () => {
    const result = await repaired('all', (image) => image.flip(image.blocks()[0]!, 2n));
    expect(result.report.fixes).toHaveLength(1);
    await expectSound(result);
    expect(result.device.sizeBytes).toBe(result.before.length);
  });

  it('[REP-003] lowers nothing where a block counts for two places of the table', async () => {
    const { report, before, device } = await repaired('leaks', (image) => {
      image.set(image.blocks()[0]! + 8, image.get(image.blocks()[0]!));
    });
    expect(report).toMatchObject({ corruptionsFixed: 0, leaksFixed: 0 });
    expect(Buffer.compare(device.snapshot(), before)).toBe(0);
  });
});

describe('repairing entries', () => {
  const fixed: [string, (image: ImageBytes) => void][] = [
    ['reserved bits of an L1 entry', (image) => image.flip(image.l1()[0]!, (1n << 60n) | 4n)],
    ['reserved bits of an L2 entry', (image) => image.flip(image.l2()[1]!, (1n << 57n) | 16n)],
    ['bit 63 of an L2 entry without an offset', (image) => image.set(unused(image), copied)],
    ['bit 63 of an L1 entry', (image) => image.flip(image.l1()[0]!, copied)],
    ['bit 63 of an L2 entry', (image) => image.flip(image.l2()[3]!, copied)],
    ['a zero cluster off a boundary', (image) => image.set(unused(image), copied | 0x5200n | 1n)],
    ['a zero cluster beyond the file', (image) => image.set(unused(image), copied | (1n << 40n) | 1n)],
    [
      'a zero cluster with reserved bits that can not be',
      (image) => image.set(unused(image), (1n << 50n) | 9n),
    ],
  ];

  /** An entry of the first L2 table that names nothing. */
  function unused(image: ImageBytes): number {
    const table = image.target(image.l1()[0]!);
    for (let at = table; ; at += 8) if (image.get(at) === 0n) return at;
  }

  it.each(fixed)('[REP-001, REP-005] %s, with a journal and without', async (_name, damage) => {
    for (const options of [{}, { journal }, { journal: { ...journal, profile: 'draft-2013' } as const }]) {
      const result = await repaired('all', damage, options);
      expect(result.report.corruptionsFixed).toBe(1);
      await expectSound(result);
    }
  });

  const left: [string, (image: ImageBytes) => void][] = [
    ['an L1 entry off a boundary', (image) => image.flip(image.l1()[0]!, 512n)],
    ['an L1 entry beyond the file', (image) => image.flip(image.l1()[0]!, 1n << 40n)],
    ['an L2 entry off a boundary', (image) => image.flip(image.l2()[0]!, 512n)],
    ['an L2 entry far beyond the file', (image) => image.flip(image.l2()[0]!, 1n << 40n)],
  ];

  it.each(left)('[REP-003] %s is left, and what it may have led to is no leak', async (_name, damage) => {
    for (const mode of ['leaks', 'all'] as const) {
      const { report, before, device } = await repaired(mode, (image) => {
        damage(image);
        image.setRefcount(200, 1);
      });
      expect(report.leaksFixed).toBe(0);
      expect(report.left.leaks).toBeGreaterThan(1);
      expect(report.left.corruptions).toBeGreaterThan(0);
      // Not a byte but flags: who knows where the entry led can put it back.
      const after = device.snapshot();
      const changed = new Set(Array.from(before, (byte, i) => byte ^ after[i]!));
      expect([...changed].filter((bits) => bits !== 0 && bits !== 0x80)).toEqual([]);
    }
  });

  it('[REP-001, REP-005] guest data to which an L1 entry leads by mistake are no table to repair', async () => {
    for (const alone of [true, false]) {
      const { before, device } = await repaired(
        'all',
        (image) => {
          const [first, second] = image.l1();
          const entry = image.target(second!);
          const data = image.target(entriesOf(image, entry)[0]!);
          // Like a table: entries that are broken a little, and one that has a wrong flag.
          image.bytes.fill(0, data, data + clusterBytes);
          for (let at = data; at < data + (alone ? clusterBytes : 32); at += 8)
            image.set(at, 0x5002n | BigInt(data));
          image.set(first!, copied | BigInt(data));
          if (alone) image.set(second!, 0n);
        },
        { sizeBytes: 4 * 1024 * 1024 },
      );
      const image = new ImageBytes(before);
      const data = image.target(image.l1()[0]!);
      const after = device.snapshot();
      expect(
        Buffer.compare(after.subarray(data, data + clusterBytes), before.subarray(data, data + clusterBytes)),
      ).toBe(0);
    }
  });

  /** Entries of a table that name a cluster. */
  function entriesOf(image: ImageBytes, table: number): number[] {
    return Array.from({ length: clusterBytes / 8 }, (_, i) => table + i * 8).filter(
      (at) => image.target(at) !== 0,
    );
  }

  it('[REP-003] a block that is made anew meanwhile counts the whole file', async () => {
    const lost = await repaired('all', (image) => {
      image.flip(image.l1()[0]!, 512n);
      image.set(image.blocks()[0]!, 0n);
    });
    expect(lost.report.left).toMatchObject({ corruptions: 1 });
    expect(lost.report.left.leaks).toBeGreaterThan(10);
    // The entry is put back by hand, and everything is there.
    const bytes = new ImageBytes(lost.device.snapshot());
    bytes.flip(bytes.header.l1Offset, 512n);
    const device = Kept.from(bytes.bytes);
    const report = await repairImage(device, { repair: 'all' });
    await expectSound({ ...lost, report, device });
  });

  it('[REP-006] guest clusters a little beyond the end of the file of a dirty image get its length', async () => {
    const beyond = (image: ImageBytes): void => {
      image.set(unused(image), copied | BigInt(image.bytes.length + 64 * clusterBytes));
    };
    const { report, device, content } = await repaired('all', (image) => {
      beyond(image);
      image.bytes[79]! |= 1;
    });
    expect(report.left).toMatchObject({ corruptions: 0 });
    expect(Buffer.compare(await read(device, content.length), content)).toBe(0);
    // Nobody loses length who was not dirty: that entry is damage.
    const clean = await repaired('all', beyond);
    expect(clean.report.left).toMatchObject({ corruptions: 1 });
    expect(clean.device.sizeBytes).toBe(clean.before.length);
  });

  it('[REP-004, REP-006] lost clusters that the refcount table does not reach make it larger', async () => {
    const { report, device, content } = await repaired(
      'all',
      (image) => {
        image.bytes[79]! |= 1;
        image.set(unused(image), copied | BigInt(8 * 1024 * 1024));
      },
      { clusterBytes: 512, refcountBits: 64, sizeBytes: 128 * 1024 },
    );
    expect(report.left).toMatchObject({ corruptions: 0 });
    expect(Buffer.compare(await read(device, content.length), content)).toBe(0);
    expect((await openImage(device)).header.refcountTableClusters).toBeGreaterThan(1);
  });

  it('[REP-002] clusters far from each other are counted a window of the file at a time', async () => {
    // Of clusters of 512 bytes a window holds 8 GiB.
    const far = [9, 9.5, 20].map((gibibytes) => gibibytes * 2 ** 30);
    const { report, device, content } = await repaired(
      'all',
      (image) => {
        image.bytes[79]! |= 1;
        for (const hostOffset of far) image.set(unused(image), copied | BigInt(hostOffset));
      },
      { clusterBytes: 512, sizeBytes: 128 * 1024 },
    );
    // The old refcount table is kept for now: what was lost could have been there.
    expect(report.left).toMatchObject({ corruptions: 0, leaks: 1, imageEndOffset: device.sizeBytes });
    expect(Buffer.compare(await read(device, content.length), content)).toBe(0);
    // A leak in a window in which something is referenced, and one in a window in which nothing is.
    const image = await openImage(device, { readOnly: true });
    const table = image.header.refcountTableOffset;
    image.abandon();
    const block = new DataView(new ArrayBuffer(8));
    device.read(table + (far[0]! / 512 / 256) * 8, new Uint8Array(block.buffer));
    device.write(Number(block.getBigUint64(0)) + 2, new Uint8Array([0, 1]));
    const nowhere = device.sizeBytes;
    device.resize(nowhere + 512);
    device.write(nowhere, new Uint8Array([0, 1]));
    block.setBigUint64(0, BigInt(nowhere));
    device.write(table + ((17 * 2 ** 30) / 512 / 256) * 8, new Uint8Array(block.buffer));
    const again = await repairImage(device, { repair: 'all' });
    // The block itself stood where nothing counted it.
    expect(again).toMatchObject({ found: { corruptions: 1, leaks: 3 }, corruptionsFixed: 1, leaksFixed: 3 });
    expect(again.left).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('[REP-006, LAZ-007] but not where no refcount table counts them', async () => {
    // 64 refcounts a block, and 2^20 blocks: 32 GiB of clusters of 512 bytes.
    const { report, before, device } = await repaired(
      'all',
      (image) => {
        image.bytes[79]! |= 1;
        image.set(unused(image), copied | BigInt(40 * 2 ** 30));
      },
      { clusterBytes: 512, refcountBits: 64, sizeBytes: 128 * 1024 },
    );
    expect(report.left).toMatchObject({ corruptions: 1 });
    expect(device.sizeBytes).toBe(before.length);
    device.write(79, Uint8Array.of(1));
    await expect(openImage(device)).rejects.toMatchObject({
      code: 'TRUNCATED',
      context: { clause: 'LAZ-007' },
    });
    expect(device.sizeBytes).toBe(before.length);
  });

  it('[REP-006] but not where a table leads there', async () => {
    const { report, before, device } = await repaired(
      'all',
      (image) => {
        image.bytes[79]! |= 1;
        image.set(unused(image), copied | BigInt(image.bytes.length + 64 * clusterBytes));
        image.set(image.header.l1Offset + 8, copied | BigInt(image.bytes.length + 32 * clusterBytes));
      },
      { sizeBytes: 4 * 1024 * 1024 },
    );
    expect(report.left.corruptions).toBe(2);
    expect(device.sizeBytes).toBe(before.length);
  });
});

describe('what can not be put right', () => {
  it('[REP-001, REP-004] a block that stands in another table, and stays, is not written to', async () => {
    const { report, before, device } = await repaired('all', (image) => {
      // The L1 table is taken for a refcount block, and a new one would stand where something else leads.
      image.set(image.blocks()[0]!, BigInt(image.header.l1Offset));
      image.set(image.l2()[0]!, copied | BigInt(image.bytes.length));
    });
    expect(report.left.corruptions).toBeGreaterThan(0);
    const { l1Offset, l1Entries } = new ImageBytes(before).header;
    const l1 = (bytes: Uint8Array): Uint8Array => bytes.subarray(l1Offset, l1Offset + l1Entries * 8);
    expect(l1(device.snapshot())).toEqual(l1(before));
    expect(await checkImage(device)).toMatchObject({
      corruptions: report.left.corruptions,
      leaks: report.left.leaks,
    });
  });
});

describe('marks and journals', () => {
  it.each(['leaks', 'all'] as const)(
    '[REP-007, FEA-002] -r %s takes the marks away where nothing is wrong',
    async (mode) => {
      const result = await repaired(mode, (image) => {
        image.bytes[79]! |= 3;
      });
      expect(result.device.snapshot()[79]! & 3).toBe(0);
      await expectSound(result);
    },
  );

  it('[REP-007] and leaves them where something is', async () => {
    const { device } = await repaired('all', (image) => {
      image.bytes[79]! |= 3;
      image.flip(image.l1()[0]!, 512n);
    });
    expect(device.snapshot()[79]! & 3).toBe(3);
  });

  it('[REP-009] a journal whose area something else refers to is none any more', async () => {
    const { report, device, content } = await repaired(
      'all',
      (image) => {
        const extension = findHeaderExtension(image.header.extensions, headerExtensionTypes.journal)!;
        const area = new DataView(extension.buffer, extension.byteOffset).getBigUint64(16);
        expect(Number(area) % clusterBytes).toBe(0);
        image.set(image.l2()[0]!, copied | area);
      },
      { journal },
    );
    expect(report.left).toMatchObject({ corruptions: 0, leaks: 0 });
    const image = await openImage(device);
    expect(image.journalStatus()).toMatchObject({ state: 'clean' });
    await image.write(0, content);
    await image.close();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('[REP-008] a dirty journal is replayed first, into clusters that nothing can refer to', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const rng: Random = random(seed);
      const { bytes, content } = await madeImage({ clusterBytes, journal, seed });
      const before = Kept.from(bytes);
      const image = await openImage(before);
      for (let i = 0; i < 20; i++) {
        const at = rng.below(content.length / 512) * 512;
        const data = rng.bytes(512);
        await image.write(at, data);
        content.set(data, at);
      }
      await image.flush();
      image.abandon();
      const damaged = new ImageBytes(before.snapshot());
      // Every cluster of the guest counts as free, to an allocator that believes it.
      for (const at of damaged.l2()) damaged.setRefcount(damaged.target(at) / clusterBytes, 0);
      const device = Kept.from(damaged.bytes);
      const report = await repairImage(device, { repair: 'all' });
      await expectSound({ report, before: damaged.bytes, content, device });
    }
  });
});
