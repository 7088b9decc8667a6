/** That the vectors, taken together, show what they are there for: a recipe that lost its point fails here. */
import {
  classifyL2Entry,
  classifySubcluster,
  clusterKind,
  l2EntryBytes,
  readEntryOffset,
} from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { type ImageWalk, walkImage } from '../src/image-walk.ts';
import { loadVector, vectorNames } from '../src/vector.ts';

const vectors = vectorNames().map((name) => {
  const { manifest, bytes } = loadVector(name);
  return { name, manifest, walk: walkImage(bytes), sizeBytes: bytes.length };
});
const walks = vectors.map(({ walk }) => walk);
const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)].sort();
const withName = (name: string) => vectors.find((vector) => vector.name === name)?.walk;

describe('the golden vectors hold', () => {
  it('both versions with cluster sizes from 512 bytes to 2 MiB', () => {
    for (const version of [2, 3]) {
      const sizes = walks
        .filter(({ header }) => header.version === version)
        .map(({ clusterBytes }) => clusterBytes);
      expect([...new Set(sizes)]).toEqual(expect.arrayContaining([512, 1024, 4096, 65536, 2097152]));
    }
  });

  it('every refcount width, with shared clusters in all but the narrowest', () => {
    expect(distinct(walks.map(({ header }) => header.refcountOrder))).toEqual([0, 1, 2, 3, 4, 5, 6]);
    for (const width of [2, 4, 8, 16, 32, 64]) {
      const walk = withName(`refcount-${width}`);
      const [block] = [...(walk?.refcountBlocks.values() ?? [])];
      const counts = Array.from({ length: 32 }, (_, i) =>
        block ? (walk?.refcounts.get(block.view, i) ?? 0) : 0,
      );
      expect(Math.max(...counts)).toBeGreaterThan(width === 2 ? 1 : 3);
    }
  });

  it('every kind of cluster', () => {
    const kinds = walks
      .filter(({ l2Format }) => !l2Format.extended)
      .flatMap((walk) => [...clusterKinds(walk)]);
    const { unallocated, zeroPlain, zeroAllocated, standard, compressed } = clusterKind;
    expect(distinct(kinds)).toEqual([unallocated, zeroPlain, zeroAllocated, standard, compressed].sort());
  });

  it('every kind of extended entry and of sub-cluster', () => {
    const extended = walks.filter(({ l2Format }) => l2Format.extended);
    expect(distinct(extended.flatMap((walk) => [...clusterKinds(walk)]))).toEqual(
      distinct(Object.values(clusterKind)),
    );
    const { mixed, ...parts } = clusterKind;
    expect(distinct(extended.flatMap((walk) => [...subclusterKinds(walk)]))).toEqual(
      distinct(Object.values(parts)),
    );
  });

  it('compressed clusters of both types, packed into one host cluster', () => {
    expect(distinct(walks.map(({ header }) => header.compressionType))).toEqual([0, 1]);
    for (const name of ['zlib-4k', 'zstd-4k']) {
      const vector = vectors.find((one) => one.name === name);
      expect(vector?.sizeBytes).toBeLessThan(vector?.manifest.guest?.sizeBytes ?? 0);
    }
  });

  it('dirty, corrupt and leaking images beside whole ones', () => {
    const masks = vectors.map(({ name, walk }) => [name, walk.header.incompatibleFeatures & 3n] as const);
    expect(masks.filter(([, mask]) => mask !== 0n)).toEqual([
      ['corrupt-bit', 2n],
      ['lazy-refcounts-dirty', 1n],
    ]);
    expect(distinct(vectors.map(({ manifest }) => manifest.qemu.check.exitCode))).toEqual([0, 2, 3]);
  });

  it('an L1 table of 32 MiB, a refcount table of several clusters, files that end inside a cluster', () => {
    expect(withName('l1-limit')?.active.l1.view.byteLength).toBe(32 * 1024 * 1024);
    expect(withName('refcount-table-grown')?.header.refcountTableClusters).toBeGreaterThan(1);
    expect(
      vectors.filter(({ walk, sizeBytes }) => sizeBytes % walk.clusterBytes !== 0).length,
    ).toBeGreaterThan(3);
  });

  it('a backing file name of more than 100 bytes, and headers without, with one and with several extensions', () => {
    expect(withName('backing-json-name')?.header.backingFileLengthBytes).toBeGreaterThan(80);
    expect(distinct(walks.map(({ header }) => Math.min(2, header.extensions.length)))).toEqual([0, 1, 2]);
  });
});

function* clusterKinds(walk: ImageWalk): Generator<number> {
  for (const { view } of walk.active.l2.values()) {
    for (let at = 0; at < view.byteLength; at += l2EntryBytes(walk.l2Format)) {
      yield classifyL2Entry(view, at, walk.l2Format);
    }
  }
}

function* subclusterKinds(walk: ImageWalk): Generator<number> {
  for (const { view } of walk.active.l2.values()) {
    for (let at = 0; at < view.byteLength; at += l2EntryBytes(walk.l2Format)) {
      if (readEntryOffset(view, at) === 0 && view.getBigUint64(at + 8) === 0n) continue;
      for (let n = 0; n < 32; n++) yield classifySubcluster(view, at, n);
    }
  }
}
