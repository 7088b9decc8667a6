/** `journal dump` on images that the driver made on files: clean, dirty, torn, damaged. No other program is needed. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '@qcow2/block-device';
import { peekRecordHeader } from '@qcow2/codec';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { readSlots } from '@qcow2/journal';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { runProgram } from '../src/program.ts';
import { scratchFolder } from './support/command.ts';

const folder = scratchFolder();
afterAll(() => folder.remove());

const clusterBytes = 4096;
const blockBytes = 512;
let made = 0;

interface MadeImage {
  readonly path: string;
  readonly area: { readonly hostOffset: number; readonly lengthBytes: number };
}

/** `flushes` commits of a guest write each, and one that goes to its cluster; closed, or left as a crash does. */
async function make(
  options: { readonly flushes?: number; readonly close?: boolean } = {},
): Promise<MadeImage> {
  const path = join(folder.path, `${made++}.qcow2`);
  const device = openFile(path, { create: 'truncate' });
  await createImage(device, {
    sizeBytes: 1 << 20,
    clusterBytes,
    journal: { sizeBytes: 128 * 1024, blockBytes },
  });
  const image = await openImage(device);
  for (let at = 0; at < (options.flushes ?? 0); at++) {
    await image.write(at * 8192, new Uint8Array(512).fill(0x40 + at));
    await image.flush();
  }
  if (options.flushes !== undefined) {
    await image.write(128 * clusterBytes, new Uint8Array(64 * clusterBytes).fill(9));
    await image.flush();
  }
  const status = image.journalStatus();
  if (status === undefined) expect.unreachable('the image has a journal');
  if (options.close === true) await image.close();
  else {
    image.abandon();
    device.close();
  }
  return { path, area: { hostOffset: status.hostOffset, lengthBytes: status.lengthBytes } };
}

async function dump(path: string, ...options: string[]): Promise<string> {
  let text = '';
  let complaint = '';
  const context = {
    programName: 'qcow2',
    out: (piece: string) => {
      text += piece;
    },
    err: (piece: string) => {
      complaint += piece;
    },
    stop: new AbortController().signal,
  };
  const status = await runProgram(['journal', 'dump', ...options, path], context, '0.0.0');
  expect(complaint).toBe('');
  expect(status).toBe(0);
  return text;
}

/** What of the JSON the tests look at; README.md has all of it. */
interface Dumped {
  readonly state: string;
  readonly slots: readonly { valid: boolean; ruling: boolean; error?: { cause?: string } }[];
  readonly ring?: { 'host-offset': number };
  readonly records: readonly {
    sequence: number;
    position: number;
    'host-offset': number;
    life: boolean;
    blocks: number;
    descriptors: readonly {
      type: string;
      size: number;
      bytes?: string;
      'guest-offset'?: number;
      'belongs-to'?: readonly { kind: string; first?: number; 'guest-offset'?: number; size?: number }[];
    }[];
  }[];
  readonly 'stale-records': number;
  readonly end?: { reason: string; sequence: number };
  readonly damage?: { code: string; message: string };
}

async function dumpJson(path: string, ...options: string[]): Promise<Dumped> {
  return JSON.parse(await dump(path, '--output=json', ...options)) as Dumped;
}

function flipBit(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

describe('journal dump', () => {
  it('of a clean image that was never written has two slots and no record', async () => {
    const { path } = await make({ close: true });
    const found = await dumpJson(path);
    expect(found.state).toBe('clean');
    expect(found.slots.map(({ valid }) => valid)).toEqual([true, true]);
    expect(found.slots.filter(({ ruling }) => ruling)).toHaveLength(1);
    expect(found.records).toEqual([]);
    expect(found.end).toMatchObject({ reason: 'no-record', sequence: 1 });
    expect(found).not.toHaveProperty('damage');
  });

  it('of an image that was closed counts what earlier laps left', async () => {
    const { path } = await make({ flushes: 3, close: true });
    const found = await dumpJson(path);
    expect(found.state).toBe('clean');
    expect(found.records).toEqual([]);
    expect(found['stale-records']).toBeGreaterThanOrEqual(4);
    expect(await dump(path)).toMatch(/^damage: none$/m);
  });

  it('of a dirty image shows every record in order and names what it changes', async () => {
    const { path } = await make({ flushes: 3 });
    const found = await dumpJson(path);
    expect(found.state).toBe('dirty');
    const sequences = found.records.map(({ sequence }) => sequence);
    expect(sequences.length).toBeGreaterThanOrEqual(4);
    expect(sequences).toEqual(sequences.map((_, at) => (sequences[0] ?? 0) + at));
    expect(found.records.map(({ life }) => life)).toEqual(sequences.map((_, at) => at === 0));
    expect(found).not.toHaveProperty('damage');

    const descriptors = found.records.flatMap((record) => record.descriptors);
    const writes = descriptors.filter(({ type }) => type === 'guest-write');
    expect(writes.map((write) => write['guest-offset'])).toEqual(expect.arrayContaining([0, 8192, 16384]));
    const named = descriptors.flatMap((descriptor) => descriptor['belongs-to'] ?? []);
    expect(named).toContainEqual({ kind: 'l1-entries', first: 0, last: 0 });
    const l2 = named.filter(({ kind }) => kind === 'l2-entries');
    const mapped = (at: number): boolean =>
      l2.some((piece) => {
        const from = piece['guest-offset'] ?? 0;
        return from <= at && at < from + (piece.size ?? 0);
      });
    for (let cluster = 128; cluster < 192; cluster++) expect(mapped(cluster * clusterBytes)).toBe(true);
    expect(named.map(({ kind }) => kind)).toContain('refcounts');
    expect(descriptors.every((descriptor) => descriptor.bytes === undefined)).toBe(true);
  });

  it('shows the bytes where they are asked for', async () => {
    const { path } = await make({ flushes: 1 });
    const { records } = await dumpJson(path, '--payload');
    const write = records
      .flatMap(({ descriptors }) => descriptors)
      .find(({ type }) => type === 'guest-write');
    expect(write?.bytes).toBe('40'.repeat(512));
    expect(await dump(path, '--payload')).toContain('000000  40404040 40404040');
  });

  it('reads as text', async () => {
    const { path, area } = await make({ flushes: 2 });
    const text = await dump(path);
    expect(text).toContain(`journal: dirty, version 1, 131072 bytes at 0x${area.hostOffset.toString(16)}\n`);
    expect(text.match(/^slot [01] at 0x[0-9a-f]+: valid/gm)).toHaveLength(2);
    expect(text).toMatch(/^record 1 at position 0x0 \(0x[0-9a-f]+\): \d+ blocks?, first of a life$/m);
    expect(text).toMatch(/^ {4}guest write: guest range 0x2000-0x21ff$/m);
    expect(text).toMatch(/: L1 entry 0$/m);
    expect(text).toMatch(
      /^ {4}write.*: L2 entries of guest range 0x[0-9a-f]+-0x[0-9a-f]+|inline write.*L2 entr/m,
    );
    expect(text).toMatch(/refcount of clusters? \d+/);
    expect(text).toMatch(/^end: no record at position 0x/m);
    expect(text.endsWith('damage: none, recovery goes through\n')).toBe(true);
  });

  it('says of a torn last record that it is torn, and that nothing is damaged', async () => {
    const { path } = await make({ flushes: 2 });
    const whole = await dumpJson(path);
    const last = whole.records.at(-1);
    if (last === undefined) expect.unreachable('there are records');
    flipBit(path, last['host-offset'] + last.blocks * blockBytes - 1);
    const found = await dumpJson(path);
    expect(found.records).toEqual(whole.records.slice(0, -1));
    expect(found.end).toMatchObject({ reason: 'torn', sequence: last.sequence });
    expect(found).not.toHaveProperty('damage');
    expect(await dump(path)).toMatch(/^end: a torn record at position/m);
  });

  it('says what recovery says where an earlier record is gone', async () => {
    const { path } = await make({ flushes: 4 });
    const [, second] = (await dumpJson(path)).records;
    if (second === undefined) expect.unreachable('there are records');
    flipBit(path, second['host-offset'] + 4);
    const found = await dumpJson(path);
    expect(found.records).toHaveLength(1);
    expect(found['stale-records']).toBeGreaterThanOrEqual(2);
    expect(found.damage?.code).toBe('JOURNAL_DAMAGED');

    const device = openFile(path, { readOnly: true });
    const refusal = await openImage(device, { readOnly: true }).catch((error: Error) => error.message);
    device.close();
    expect(found.damage?.message).toBe(refusal);
  });

  it.each([0, 1])('with slot %i damaged goes on from the other one', async (index) => {
    const { path, area } = await make({ flushes: 2 });
    const whole = await dumpJson(path);
    flipBit(path, area.hostOffset + index * 4096 + 100);
    const found = await dumpJson(path);
    expect(found.slots[index]).toMatchObject({ valid: false, ruling: false });
    expect(found.slots[index]?.error?.cause).toContain('JRN-SLOT-016');
    expect(found.slots[1 - index]).toMatchObject({ valid: true, ruling: true });
    expect(found.damage?.code).toBe('JOURNAL_DAMAGED');
    expect(found.records.length).toBeGreaterThanOrEqual(whole.records.length);
    expect(await dump(path)).toMatch(new RegExp(`^slot ${index} at .*: not valid: .*JOURNAL_DAMAGED`, 'm'));
  });

  it('with both slots damaged shows that, and no record', async () => {
    const { path, area } = await make({ flushes: 1 });
    flipBit(path, area.hostOffset);
    flipBit(path, area.hostOffset + 4096);
    const found = await dumpJson(path);
    expect(found.slots.map(({ valid }) => valid)).toEqual([false, false]);
    expect(found.records).toEqual([]);
    expect(found).not.toHaveProperty('end');
    expect(found.damage?.code).toBe('JOURNAL_DAMAGED');
  });

  it('with the file cut off in the ring says so', async () => {
    const { path } = await make({ flushes: 2 });
    const { ring } = await dumpJson(path);
    writeFileSync(path, readFileSync(path).subarray(0, (ring?.['host-offset'] ?? 0) + 100));
    const found = await dumpJson(path);
    expect(found.end?.reason).toBe('unreadable');
    expect(found.damage).toBeDefined();
  });

  it('with bits flipped anywhere in the journal shows something, in JSON that can be parsed', async () => {
    const { path, area } = await make({ flushes: 3 });
    const sound = readFileSync(path);
    const flip = fc.record({ at: fc.nat({ max: 24 * 1024 - 1 }), bit: fc.nat({ max: 7 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(flip, { minLength: 1, maxLength: 4 }), async (flips) => {
        const bytes = Buffer.from(sound);
        for (const { at, bit } of flips) {
          const place = area.hostOffset + at;
          bytes[place] = (bytes[place] ?? 0) ^ (1 << bit);
        }
        writeFileSync(path, bytes);
        const found = await dumpJson(path);
        // What openImage says of the same file, the dump says too.
        const device = openFile(path, { readOnly: true });
        const opened = openImage(device, { readOnly: true });
        const refusal = await opened.then(
          () => undefined,
          (error: Error) => error.message,
        );
        device.close();
        expect(found.damage?.message).toBe(refusal);
      }),
      { numRuns: 150 },
    );
  });

  it('leaves the file as it is', async () => {
    const { path, area } = await make({ flushes: 2 });
    const before = readFileSync(path);
    await dump(path, '--payload');
    expect(readFileSync(path).equals(before)).toBe(true);
    const device = openFile(path, { readOnly: true });
    const { newer } = await run(readSlots(device, area));
    device.close();
    expect(newer.tailSequence).toBe((await dumpJson(path)).records[0]?.sequence);
  });

  it('shows the header that stands at the place it gives', async () => {
    const { path } = await make({ flushes: 2 });
    const bytes = readFileSync(path);
    for (const record of (await dumpJson(path)).records) {
      const header = peekRecordHeader(bytes, record['host-offset']);
      expect(header).toMatchObject({ sequence: record.sequence, position: record.position });
    }
  });
});
