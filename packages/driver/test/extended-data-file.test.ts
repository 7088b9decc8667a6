/** Sub-clusters whose data stands in an external data file, raw or not, beside a plain list of bytes. */
import { MemoryDevice } from '@qcow2/block-device';
import { decodeHeader, encodeHeader } from '@qcow2/codec';
import { autoclearFeatures } from '@qcow2/spec';
import { describe, expect, test } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { type Random, random } from './support/random.ts';
import { toyKinds } from './support/toy-encryption.ts';

const clusterBytes = 16384;
const sizeBytes = 11 * clusterBytes + 1536;

const ways = {
  journal: { journal: { sizeBytes: 65536, blockBytes: 512 } },
  ordered: { journal: false },
  lazy: { journal: false, lazyRefcounts: true },
} as const;
const cases = Object.keys(ways).flatMap((way) =>
  (['plain', 'raw', 'backing', 'luks'] as const).map((kind) => [way as keyof typeof ways, kind] as const),
);

interface Disk {
  readonly image: MemoryDevice;
  readonly data: MemoryDevice;
  readonly base: MemoryDevice | undefined;
  readonly truth: Uint8Array;
}

async function made(way: keyof typeof ways, kind: (typeof cases)[number][1], rng: Random): Promise<Disk> {
  const [image, data] = [new MemoryDevice(), new MemoryDevice()];
  // What a file that was used before has in it is nobody's to see.
  if (kind !== 'raw') data.write(0, rng.bytes(5 * clusterBytes));
  const dataFile = { device: data, name: 'guest.data', raw: kind === 'raw' };
  const base = kind === 'backing' ? MemoryDevice.fromBytes(rng.bytes(6 * clusterBytes + 700)) : undefined;
  const options = { sizeBytes, clusterBytes, extendedL2: true, dataFile, ...ways[way] };
  if (kind === 'luks') await toyKinds.luks().create(image, options);
  else await createImage(image, { ...options, ...(base === undefined ? {} : { backingFile: 'base' }) });
  const truth = new Uint8Array(sizeBytes);
  if (base !== undefined) truth.set(base.snapshot().subarray(0, sizeBytes));
  for (const device of [image, data, base]) if (device !== undefined) device.close = () => undefined;
  return { image, data, base, truth };
}

function opened({ image, data, base }: Disk, kind: string): Promise<Qcow2Image> {
  const secret = kind === 'luks' ? { encryption: toyKinds.luks().encryption } : {};
  return openImage(image, { dataFile: data, backing: base ?? 'none', ...secret });
}

async function request(disk: Qcow2Image, truth: Uint8Array, rng: Random): Promise<string> {
  const unit = rng.pick([1, 512, 512, 512, clusterBytes]);
  const most = Math.floor(Math.min(rng.pick([2000, 9000, 3 * clusterBytes]), sizeBytes) / unit) || 1;
  const length = (1 + rng.below(most)) * unit;
  const at = Math.min(rng.below(Math.floor(sizeBytes / unit)) * unit, sizeBytes - length);
  const what = rng.below(6);
  if (what < 4) {
    const bytes = rng.bytes(length);
    truth.set(bytes, at);
    await disk.write(at, bytes);
    return `write ${at}+${length}`;
  }
  truth.fill(0, at, at + length);
  await disk.writeZeroes(at, length, { mayUnmap: what === 5 });
  return `zero ${at}+${length}, unmap ${what === 5}`;
}

async function content(device: { readonly sizeBytes: number; read(at: number, into: Uint8Array): unknown }) {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

describe.each(cases)('%s, %s', (way, kind) => {
  test.each([1, 2])(
    '[FEA-003, SUB-008, SUB-009, DAT-004, DAT-005] read as written, also after a crash and reopened, seed %i',
    async (seed) => {
      const rng = random(seed);
      const files = await made(way, kind, rng);
      const { truth } = files;
      let disk = await opened(files, kind);
      for (let i = 0; i < 150; i++) {
        const done = await request(disk, truth, rng);
        const hint = `seed ${seed}, ${i}: ${done}`;
        expect(Buffer.compare(await content(disk), truth), hint).toBe(0);
        if (kind === 'raw' && i % 5 === 0)
          expect(Buffer.compare(await content(files.data), truth), hint).toBe(0);
        if (i % 9 === 0) await disk.flush();
        if (i % 50 === 49) {
          if (i === 49) {
            await disk.flush();
            disk.abandon();
          } else await disk.close();
          if (way !== 'lazy' || i !== 49)
            expect(await checkImage(files.image), hint).toMatchObject({ corruptions: 0, leaks: 0 });
          disk = await opened(files, kind);
          expect(Buffer.compare(await content(disk), truth), hint).toBe(0);
        }
      }
      await disk.close();
      expect(await checkImage(files.image)).toMatchObject({ corruptions: 0, leaks: 0 });
      if (kind === 'raw') expect(Buffer.compare(await content(files.data), truth)).toBe(0);
    },
  );
});

test('[DAT-005] of a cluster that is mapped in part, as QEMU leaves it in a raw file, what is there stays when the rest is mapped', async () => {
  const files = await made('ordered', 'plain', random(1));
  files.data.write(0, new Uint8Array(sizeBytes));
  const before = await opened(files, 'plain');
  await before.write(2 * clusterBytes + 4096, new Uint8Array(2048).fill(7));
  await before.close();
  const head = new Uint8Array(clusterBytes);
  files.image.read(0, head);
  const header = decodeHeader(head);
  header.autoclearFeatures |= autoclearFeatures.rawExternalData;
  files.image.write(0, encodeHeader(header));
  const disk = await opened(files, 'raw');
  await disk.write(2 * clusterBytes + 9000, new Uint8Array(100).fill(8));
  await disk.close();
  const expected = new Uint8Array(sizeBytes);
  expected.fill(7, 2 * clusterBytes + 4096, 2 * clusterBytes + 6144);
  expected.fill(8, 2 * clusterBytes + 9000, 2 * clusterBytes + 9100);
  expect(Buffer.compare(await content(files.data), expected)).toBe(0);
});
