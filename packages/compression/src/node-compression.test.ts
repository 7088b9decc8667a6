import { deflateRawSync, inflateRawSync, zstdCompressSync } from 'node:zlib';
import { inflateOnly } from '@qcow2/codec';
import { compressionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { nodeCompression } from './node-compression.ts';

const compression = nodeCompression();
const clusterBytes = 65536;
const text = new TextEncoder().encode('records behind records, and a slot that says where they begin. ');
const content = new Uint8Array(clusterBytes).map((_, i) => text[(i + (i >> 9)) % text.length]!);
const noise = crypto.getRandomValues(new Uint8Array(clusterBytes));
const { deflate, zstd } = compressionTypes;

async function compressed(type: number, bytes: Uint8Array): Promise<Uint8Array> {
  const data = await compression.compress?.(type, bytes);
  if (data === undefined) throw new TypeError('it did not get smaller');
  return data;
}

function withGarbage(data: Uint8Array): Uint8Array {
  return Uint8Array.from([...data, ...noise.subarray(0, 500)]);
}

describe('nodeCompression', () => {
  it.each([deflate, zstd])(
    '[CMP-006, CMP-008, CMP-013] type %i: there and back, with other bytes behind',
    async (type) => {
      const data = await compressed(type, content);
      expect(data.length).toBeLessThan(clusterBytes / 4);
      expect(await compression.decompress(type, withGarbage(data), clusterBytes)).toEqual(content);
    },
  );

  it.each([deflate, zstd])('[CMP-013] type %i: what gets no smaller is not compressed', async (type) => {
    expect(await compression.compress?.(type, noise)).toBeUndefined();
  });

  it("zstd on the caller's thread gives the same as on another, for small clusters and at once", async () => {
    const [here, pooled] = [true, false].map((zstdHere) => nodeCompression({ zstdHere }));
    const data = here?.compress?.(zstd, content);
    expect(data).toBeInstanceOf(Uint8Array);
    expect(data).toEqual(await pooled?.compress?.(zstd, content));
    expect(here?.compress?.(zstd, noise)).toBeUndefined();
    expect(pooled?.compress?.(zstd, content)).toBeInstanceOf(Promise);
    const large = new Uint8Array(2 * clusterBytes);
    for (const later of [here?.compress?.(zstd, large), here?.compress?.(deflate, content)]) {
      expect(later).toBeInstanceOf(Promise);
      await later;
    }
  });

  it('[CMP-015] deflate streams refer back by 4 KiB at most', async () => {
    const far = new Uint8Array(3 * clusterBytes);
    far.set(noise.subarray(0, 5000));
    far.set(noise.subarray(0, 5000), 5000);
    const data = await compressed(deflate, far);
    // The second 5000 bytes are 5000 away from the first: a window of 4 KiB does not reach them.
    expect(data.length).toBeGreaterThan(10_000);
    expect(deflateRawSync(far).length).toBeLessThan(6000);
    expect(inflateRawSync(data, { windowBits: 12 })).toEqual(Buffer.from(far));
  });

  it('deflate is read by what needs no Node as well', async () => {
    const data = await compressed(deflate, content);
    expect(inflateOnly.decompress(deflate, data, clusterBytes)).toEqual(content);
  });

  const larger = new Uint8Array(clusterBytes + 1);
  const smaller = new Uint8Array(clusterBytes - 1);
  it.each([
    ['deflate that makes a byte too many', deflate, deflateRawSync(larger), 'COMPRESSED_DAMAGED'],
    ['deflate that makes 256 MiB', deflate, deflateRawSync(new Uint8Array(1 << 28)), 'COMPRESSED_DAMAGED'],
    ['deflate that makes a byte too few', deflate, deflateRawSync(smaller), 'COMPRESSED_DAMAGED'],
    ['deflate that is cut off', deflate, deflateRawSync(content).subarray(0, 200), 'COMPRESSED_DAMAGED'],
    ['noise for deflate', deflate, noise.subarray(0, 900), 'COMPRESSED_DAMAGED'],
    ['zstd of unnamed size that makes too much', zstd, unsized(larger), 'COMPRESSED_DAMAGED'],
    ['zstd of unnamed size that makes too little', zstd, unsized(smaller), 'COMPRESSED_DAMAGED'],
    [
      'zstd that names another size',
      zstd,
      zstdCompressSync(larger, { pledgedSrcSize: clusterBytes + 1 }),
      'COMPRESSED_DAMAGED',
    ],
    ['zstd with damaged content', zstd, damaged(zstdCompressSync(content)), 'COMPRESSED_DAMAGED'],
    ['noise for zstd', zstd, noise.subarray(0, 900), 'COMPRESSED_DAMAGED'],
    ['a type that is not known', 2, noise, 'UNSUPPORTED_FEATURE'],
  ])('[CMP-008, CMP-009] refuses %s', async (_, type, bytes, code) => {
    await expect((async () => compression.decompress(type, bytes, clusterBytes))()).rejects.toMatchObject({
      code,
    });
  });
});

function unsized(bytes: Uint8Array): Uint8Array {
  // 200: content size flag, ZSTD_c_contentSizeFlag.
  return zstdCompressSync(bytes, { params: { 200: 0 } });
}

function damaged(bytes: Uint8Array): Uint8Array {
  // Behind the head of the frame and of its first block: what says how the block's literals are coded.
  return bytes.map((byte, i) => (i > 9 && i < 16 ? byte ^ 0x5a : byte));
}
