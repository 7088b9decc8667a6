import { MemoryDevice, readPadded } from '@qcow2/block-device';
import {
  decodeHeader,
  encodeHeader,
  type Qcow2Header,
  writeL1Entry,
  writeRefcountTableEntry,
} from '@qcow2/codec';
import { createImage } from '@qcow2/driver';
import { beforeEach, describe, expect, it } from 'vitest';
import { belongingText } from './journal-dump-text.ts';
import { MetadataMap } from './metadata-map.ts';

const clusterBytes = 4096;
const l2Reach = (clusterBytes / 8) * clusterBytes;
const l2Table = 0x40000;
let memory: MemoryDevice;
let header: Qcow2Header;

beforeEach(async () => {
  memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 8 * l2Reach, clusterBytes });
  header = decodeHeader(memory.snapshot().subarray(0, clusterBytes));
});

const load = async (): Promise<MetadataMap> =>
  await MetadataMap.load(async (at, into) => await readPadded(memory, at, into), header);

function entry(write: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(8);
  write(new DataView(bytes.buffer));
  return bytes;
}

const names = (map: MetadataMap, at: number, lengthBytes: number): string =>
  map.name(at, lengthBytes).map(belongingText).join('; ');

describe('what a host range belongs to', () => {
  it('header fields, by name, and what follows them', async () => {
    const map = await load();
    expect(names(map, 72, 8)).toBe('header: incompatible features');
    expect(names(map, 79, 2)).toBe('header: incompatible features, compatible features');
    expect(names(map, 24, 24)).toBe('header: size bytes, crypt method, l1 entries, l1 offset');
    expect(names(map, 0, 512)).toBe('header: magic to extensions');
    expect(names(map, 2000, 8)).toBe('header: extensions');
  });

  it('entries of the L1 table, and not what stands behind its end', async () => {
    const map = await load();
    expect(names(map, header.l1Offset + 24, 8)).toBe('L1 entry 3');
    expect(names(map, header.l1Offset + 31, 2)).toBe('L1 entries 3-4');
    const end = header.l1Offset + 64;
    expect(names(map, end - 8, 16)).toBe(
      `L1 entry 7; host range 0x${end.toString(16)}-0x${(end + 7).toString(16)}`,
    );
  });

  it('entries of the refcount table', async () => {
    const map = await load();
    expect(names(map, header.refcountTableOffset + 8, 8)).toBe('refcount table entry 1');
  });

  it('L2 entries, by the guest range that they map, once an L1 entry names their table', async () => {
    const map = await load();
    expect(names(map, l2Table + 16, 8)).toBe('host range 0x40010-0x40017');
    await map.note(
      header.l1Offset + 16,
      entry((view) => writeL1Entry(view, 0, l2Table, true)),
    );
    const from = 2 * l2Reach + 2 * clusterBytes;
    const hex = (value: number): string => `0x${value.toString(16)}`;
    expect(names(map, l2Table + 16, 8)).toBe(
      `L2 entry of guest range ${hex(from)}-${hex(from + clusterBytes - 1)}`,
    );
    expect(names(map, l2Table, clusterBytes)).toBe(
      `L2 entries of guest range ${hex(2 * l2Reach)}-${hex(3 * l2Reach - 1)}`,
    );
    await map.note(header.l1Offset + 16, new Uint8Array(8));
    expect(names(map, l2Table + 16, 8)).toBe('host range 0x40010-0x40017');
  });

  it('refcounts, by the clusters that they count', async () => {
    const map = await load();
    const block = 0x50000;
    await map.note(
      header.refcountTableOffset + 8,
      entry((view) => writeRefcountTableEntry(view, 0, block)),
    );
    const perBlock = clusterBytes / 2;
    expect(names(map, block + 6, 2)).toBe(`refcount of cluster ${perBlock + 3}`);
    expect(names(map, block + 6, 8)).toBe(`refcount of clusters ${perBlock + 3}-${perBlock + 6}`);
  });

  it('whatever begins in one cluster and ends in another is named in pieces', async () => {
    const map = await load();
    await map.note(
      header.l1Offset,
      entry((view) => writeL1Entry(view, 0, l2Table, true)),
    );
    const pieces = map.name(l2Table - 2 * clusterBytes, 2 * clusterBytes + 8);
    expect(pieces).toEqual([
      { kind: 'host-range', hostOffset: l2Table - 2 * clusterBytes, lengthBytes: 2 * clusterBytes },
      { kind: 'l2-entries', count: 1, guestOffset: 0, lengthBytes: clusterBytes },
    ]);
  });

  it('follows a table that the header moves', async () => {
    const map = await load();
    const moved = 0x60000;
    const table = new Uint8Array(clusterBytes);
    writeL1Entry(new DataView(table.buffer), 8, l2Table, true);
    await memory.resize(0x80000);
    await memory.write(moved, table);
    await map.note(0, encodeHeader({ ...header, l1Offset: moved }).subarray(0, 512));
    expect(names(map, moved + 8, 8)).toBe('L1 entry 1');
    expect(names(map, header.l1Offset + 8, 8)).toContain('host range');
    expect(map.name(l2Table, 8)).toMatchObject([{ kind: 'l2-entries', guestOffset: l2Reach }]);
  });

  it('an L1 entry that breaks its clauses names nothing', async () => {
    const map = await load();
    await map.note(
      header.l1Offset,
      entry((view) => writeL1Entry(view, 0, l2Table + 8, true)),
    );
    await map.note(
      header.l1Offset + 8,
      entry((view) => writeL1Entry(view, 0, l2Table + 512, true)),
    );
    expect(names(map, l2Table, 8)).toBe('host range 0x40000-0x40007');
  });
});
