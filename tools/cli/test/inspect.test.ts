/** `inspect` on images that the driver made, sound and damaged. No other program is needed. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { decodeHeader } from '@qcow2/codec';
import { createImage, openImage, readImageHeader } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { headerLayout } from '@qcow2/spec';
import { afterAll, describe, expect, it } from 'vitest';
import { gatherJournalFacts } from '../src/journal-facts.ts';
import { readClauses } from '../src/specification.ts';
import { scratchFolder } from './support/command.ts';
import { runHere } from './support/run-here.ts';

const folder = scratchFolder();
afterAll(() => folder.remove());

const clusterBytes = 4096;
let made = 0;

async function makeImage(): Promise<string> {
  const path = join(folder.path, `${made++}.qcow2`);
  const device = openFile(path, { create: 'truncate' });
  const journal = { sizeBytes: 65536, blockBytes: 512 };
  await createImage(device, { sizeBytes: 1 << 20, clusterBytes, journal });
  const image = await openImage(device);
  await image.write(5 * clusterBytes, new Uint8Array(clusterBytes).fill(1));
  await image.createSnapshot({ name: 'before' });
  await image.addBitmap('dirty');
  await image.close();
  return path;
}

type Terminal = { readonly columns: number; readonly colour: boolean };
const inspect = (...words: string[]) => inspectOn(undefined, ...words);
const inspectOn = (terminal: Terminal | undefined, ...words: string[]) =>
  runHere(['inspect', ...words], terminal);

interface Structure {
  readonly structure: string;
  readonly clause: string;
  readonly link: string;
  readonly 'host-offset': number;
  readonly fields: readonly {
    readonly name: string;
    readonly value: number | string;
    readonly clause: string;
  }[];
  readonly problem?: string;
}

async function structures(path: string): Promise<Structure[]> {
  return JSON.parse((await inspect('--output=json', path)).out);
}

describe('inspect', () => {
  it('shows each field of the header, with the value that the codec decodes and its clause', async () => {
    const path = await makeImage();
    const [header] = await structures(path);
    const decoded: Record<string, unknown> = {
      ...decodeHeader(new Uint8Array(readFileSync(path)).subarray(0, 4096)),
    };
    expect(header!.fields.map(({ name }) => name)).toEqual(headerLayout.fields.map(({ name }) => name));
    for (const { name, value, clause } of header!.fields) {
      expect(clause).toBe(headerLayout.fields.find((field) => field.name === name)!.clause);
      const is = decoded[name];
      if (typeof is === 'number') expect(value, name).toBe(is);
      if (typeof is === 'bigint') expect(BigInt(value), name).toBe(is);
    }
  });

  it('links each clause to where it stands: signs of a terminal, a member in JSON', async () => {
    const path = await makeImage();
    const plain = (await inspect(path)).out;
    const { out } = await inspectOn({ columns: 80, colour: false }, path);
    const links = readClauses();
    const version = links.get('HDR-002')!.link;
    expect(out).toContain(`\u001b]8;;${version}\u001b\\[HDR-002]\u001b]8;;\u001b\\`);
    expect(stripVTControlCharacters(out)).toBe(plain);
    for (const { clause, link } of await structures(path)) expect(link, clause).toBe(links.get(clause)?.link);
  });

  it('shows what the header leads to', async () => {
    const titles = (await structures(await makeImage())).map(({ structure }) => structure);
    expect(titles).toEqual(
      expect.arrayContaining([
        'header extension: feature name table',
        'journal 0',
        'bitmaps extension',
        'snapshot 1 of 1',
        'bitmap 1 of 1',
        'journal header slot 0',
        'journal header slot 1',
      ]),
    );
  });

  it('shows a slot of the journal once, and info calls a journal with one sound slot damaged', async () => {
    const path = await makeImage();
    const slots = (await structures(path)).filter(({ structure }) =>
      structure.startsWith('journal header slot'),
    );
    expect(slots.length).toBe(2);
    const bytes = readFileSync(path);
    bytes[slots[0]!['host-offset'] + 100]! ^= 1;
    writeFileSync(path, bytes);
    const device = openFile(path, { readOnly: true });
    const { header } = await readImageHeader(device);
    expect((await gatherJournalFacts(device, header))!.state).toBe('damaged');
    device.close();
  });

  it('shows every entry of the tables', async () => {
    const { out, status } = await inspect('--tables', await makeImage());
    expect(status).toBe(0);
    expect(out).toMatch(/ l1 +guest 0x0 to 0x1fffff: L2 table at 0x[0-9a-f]+/);
    expect(out).toMatch(/ l2 +guest 0x5000 to 0x5fff: data, at 0x[0-9a-f]+ {2}\[L2E-001\]/);
    expect(out).toMatch(/ refcount-table +clusters 0 to 2047: refcount block at 0x/);
    expect(out).toMatch(/ refcounts +clusters \d+ to \d+: refcount 2/);
  });

  it('says what stands at a host offset: a field, an entry, a cluster that a snapshot shares, free space, nothing', async () => {
    const path = await makeImage();
    expect((await inspect('--at', '24', path)).out).toContain(
      'field: header, sizeBytes = 1048576 (1 MiB) [HDR-006]',
    );
    const { out } = await inspect('--tables', path);
    const place = /guest 0x5000 to 0x5fff: data, at (0x[0-9a-f]+)/.exec(out)![1]!;
    const entry = /(0x[0-9a-f]+) +l2 +guest 0x5000/.exec(out)![1]!;
    const cluster = await inspect('--at', String(Number(place) + 7), path);
    expect(cluster.out).toContain('byte 7 of a guest cluster, guest offset 0x5000\n');
    expect(cluster.out).toContain('byte 7 of a guest cluster, guest offset 0x5000, in snapshot 1\n');
    expect(cluster.out).toContain('refcount 2');
    expect((await inspect('--at', entry, path)).out).toMatch(
      /entry: L2 entry of guest range 0x5000-0x5fff: data, at/,
    );
    expect((await inspect('--at', '1T', path)).out).toContain('behind the end of the file');
  });

  it('goes on where a field is not as it must be, and says so', async () => {
    const path = await makeImage();
    const bytes = readFileSync(path);
    bytes.writeUInt32BE(99, 20);
    writeFileSync(path, bytes);
    const { status, out, err } = await inspect(path);
    expect(out).toMatch(/clusterBits +99/);
    expect(out).toContain('not as it must be: ');
    expect(status).toBe(1);
    expect(err).toContain('the header can not be followed');
  });

  it('shows a snapshot table that is cut off as far as it goes', async () => {
    const path = await makeImage();
    const bytes = readFileSync(path);
    bytes.writeUInt32BE(2, 60);
    bytes.writeUInt16BE(0xffff, 12 + Number(bytes.readBigUInt64BE(64)));
    writeFileSync(path, bytes);
    const all = await structures(path);
    expect(all.some(({ structure }) => structure === 'snapshot 1 of 2')).toBe(true);
    expect(all.length).toBeLessThan(100);
  });
});
