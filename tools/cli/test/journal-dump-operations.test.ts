/** `journal dump` of what is under way in a log: copies and fills that are still to be carried out, and a disk that is being made larger. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  decodeHeader,
  readEntryOffset,
  readRefcountBlockOffset,
  refcountCodec,
  writeEntryCopied,
  writeStandardEntry,
} from '@qcow2/codec';
import { createImage, openImage, type Qcow2Image } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, describe, expect, it } from 'vitest';
import { runProgram } from '../src/program.ts';
import { scratchFolder } from './support/command.ts';

const folder = scratchFolder();
afterAll(() => folder.remove());

const clusterBytes = 4096;
const basePath = join(folder.path, 'base.raw');
const path = join(folder.path, 'image.qcow2');

/** An image over a backing file of 12 clusters, of which `change` was not brought to its end. */
async function make(sizeBytes: number, change: (image: Qcow2Image) => Promise<void>): Promise<void> {
  writeFileSync(basePath, new Uint8Array(12 * clusterBytes).fill(0xbb));
  const device = openFile(path, { create: 'truncate' });
  const options = { backingFile: 'base.raw', backingFormat: 'raw' } as const;
  await createImage(device, { sizeBytes, clusterBytes, ...options, journal: { sizeBytes: 1 << 16 } });
  await device.close();
  await left(async (image) => {
    await image.write(0, new Uint8Array(clusterBytes).fill(1));
    await image.write(clusterBytes, new Uint8Array(clusterBytes).fill(2));
    await image.close();
  });
  await left(change);
}

/** Open the image as large writes do, which are mapped before they are whole; then leave it as a crash does. */
async function left(change: (image: Qcow2Image) => Promise<void>): Promise<void> {
  const device = openFile(path);
  const backing = openFile(basePath, { readOnly: true });
  const image = await openImage(device, { backing, journal: { directFlushBytes: 0 } });
  await change(image);
  image.abandon();
  await device.close();
  await backing.close();
}

/** Guest cluster 1 leads to the host cluster of guest cluster 0. */
function share(): void {
  const bytes = new Uint8Array(readFileSync(path));
  const view = new DataView(bytes.buffer);
  const header = decodeHeader(bytes);
  const table = readEntryOffset(view, header.l1Offset);
  const host = readEntryOffset(view, table);
  const count = (cluster: number, refcount: number) => {
    const block = readRefcountBlockOffset(view, header.refcountTableOffset);
    refcountCodec(header.refcountOrder).set(
      new DataView(bytes.buffer, block, clusterBytes),
      cluster,
      refcount,
    );
  };
  count(readEntryOffset(view, table + 8) / clusterBytes, 0);
  writeStandardEntry(view, table + 8, host, false);
  writeEntryCopied(view, table, false);
  count(host / clusterBytes, 2);
  writeFileSync(path, bytes);
}

async function dump(...options: string[]): Promise<string> {
  let text = '';
  const out = (piece: string) => {
    text += piece;
  };
  const err = (piece: string) => expect.unreachable(piece);
  const context = { programName: 'qcow2', out, err, stop: new AbortController().signal };
  expect(await runProgram(['journal', 'dump', ...options, path], context, '0.0.0')).toBe(0);
  return text;
}

type Described = { readonly type: string } & Readonly<Record<string, unknown>>;

async function descriptors(type: string): Promise<Described[]> {
  const { records } = JSON.parse(await dump('--output=json')) as {
    records: { descriptors: Described[] }[];
  };
  return records.flatMap((record) => record.descriptors).filter((one) => one.type === type);
}

describe('journal dump of what is under way', () => {
  it('names the guest range that a copy fills', async () => {
    await make(16 * clusterBytes, (image) => image.close());
    share();
    await left(async (image) => {
      await image.write(clusterBytes + 1024, new Uint8Array(512).fill(3));
      await image.flush();
    });
    const text = await dump();
    const line = /^ {4}copy: fill of guest range 0x1000-0x13ff from host range 0x\w+-0x\w+ to 0x\w+-0x\w+$/m;
    expect(text).toMatch(line);
    expect(text).toMatch(/^ {4}copy: fill of guest range 0x1600-0x1fff from host range /m);
    const copies = await descriptors('copy');
    expect(copies.map((copy) => copy['belongs-to'])).toEqual([
      [{ kind: 'guest-range', 'guest-offset': clusterBytes, size: 1024 }],
      [{ kind: 'guest-range', 'guest-offset': clusterBytes + 1536, size: clusterBytes - 1536 }],
    ]);
  });

  it('names the guest range that comes from the backing file', async () => {
    await make(16 * clusterBytes, async (image) => {
      await image.write(5 * clusterBytes, new Uint8Array(512).fill(3));
      await image.flush();
    });
    expect(await dump()).toMatch(
      /^ {4}fill from backing: fill of guest range 0x5200-0x5fff to host range 0x\w+-0x\w+$/m,
    );
    const [fill] = await descriptors('fill-from-backing');
    expect(fill).toMatchObject({ 'guest-offset': 5 * clusterBytes + 512, size: clusterBytes - 512 });
  });

  it('[JRN-INTENT-021] shows the intent of a disk that was being made larger, and where it had come to', async () => {
    const [before, after] = [8 * clusterBytes, 20 * clusterBytes];
    // Its zeros are durable when this returns, its new size is not.
    await make(before, (image) => image.grow(after));
    const intents = await descriptors('intent');
    expect(intents.at(-1)).toMatchObject({
      operation: 'grow',
      'size-before': before,
      'size-after': after,
      reach: after,
    });
    expect(await descriptors('intent-done')).toEqual([]);
    expect(await dump()).toContain(`: grow from ${before} to ${after} bytes, has come to ${after}\n`);
    await left(async (image) => expect(image.sizeBytes).toBe(before));
    expect(await descriptors('intent')).toEqual([]);
  });
});
