/**
 * Compressed images beside QEMU's: what qemu-img wrote is read byte for byte, written to and checked by it again; what we
 * wrote is read by it, and written to.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeCompression } from '@qcow2/compression';
import { createImage, openImage, type Qcow2Image } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, scratchFolder, startServer } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type Random, seededRandom } from '../support/random.ts';

const compression = nodeCompression();
/** Not whole clusters, and thousands or a few of them. */
const smallBytes = 768 * 1024 + 1536;
const largeBytes = 5 * 1024 * 1024 + 1536;
const types = ['zlib', 'zstd'] as const;
const sizes = [
  { clusterBytes: 512, sizeBytes: smallBytes },
  { clusterBytes: 4096, sizeBytes: smallBytes },
  { clusterBytes: 65536, sizeBytes: smallBytes },
  { clusterBytes: 2 * 1024 * 1024, sizeBytes: largeBytes },
];
const cases = types.flatMap((type) => sizes.map((size) => ({ type, ...size })));

/** Text, noise, zeros and mixtures of them, in stretches of all lengths. */
function disk(random: Random): Uint8Array {
  const sizeBytes = largeBytes;
  const bytes = new Uint8Array(sizeBytes);
  const words = ['slot ', 'record ', 'ring ', 'cluster ', '\n'].map((word) => new TextEncoder().encode(word));
  for (let at = 0; at < sizeBytes; ) {
    const length = Math.min(sizeBytes - at, random.between(100, random.pick([2000, 70000, 400000])));
    const stretch = bytes.subarray(at, at + length);
    const kind = random.between(0, 4);
    if (kind === 0) stretch.set(random.bytes(length));
    else if (kind === 1) stretch.fill(random.between(1, 255));
    else if (kind < 4) {
      for (let done = 0; done < length; ) {
        const word = random.pick(words);
        stretch.set(word.subarray(0, length - done), done);
        done += word.length;
      }
      if (kind === 3) for (let i = 0; i < length; i += 16) stretch[i] = random.between(0, 255);
    }
    at += length;
  }
  return bytes;
}

async function withImage(path: string, use: (image: Qcow2Image) => Promise<void>): Promise<void> {
  const file = openFile(path);
  const image = await openImage(file, { compression });
  await use(image);
  await image.close();
  file.close();
}

async function readAll(image: Qcow2Image): Promise<Uint8Array> {
  const { sizeBytes } = image;
  const bytes = new Uint8Array(sizeBytes);
  // Longer and shorter than clusters, and on no boundary.
  for (let at = 0, step = 1; at < sizeBytes; at += step) {
    step = Math.min(sizeBytes - at, (step * 3) % 700_001);
    await image.read(at, bytes.subarray(at, at + step));
  }
  return bytes;
}

async function overwrite(image: Qcow2Image, model: Uint8Array, random: Random): Promise<void> {
  const { sizeBytes } = image;
  for (let i = 0; i < 60; i++) {
    const at = random.between(0, sizeBytes - 1);
    const length = Math.min(sizeBytes - at, random.between(1, random.pick([600, 5000, 90_000])));
    const kind = random.between(0, 5);
    if (kind < 3) {
      const bytes = random.bytes(length);
      model.set(bytes, at);
      await image.write(at, bytes);
    } else if (kind === 3) {
      model.fill(0, at, at + length);
      await image.writeZeroes(at, length, { mayUnmap: true });
    } else if (kind === 4) {
      const start = at - (at % image.clusterBytes);
      const end = Math.min(sizeBytes, start + image.clusterBytes);
      const bytes = random.bytes(end - start).fill(65, 100);
      model.set(bytes, start);
      await image.writeCompressed(start, bytes);
    } else await image.flush();
  }
}

describeWith(['qemu-img', 'qemu-io'], 'compressed clusters beside QEMU', () => {
  const scratch = scratchFolder();
  const whole = disk(seededRandom(11));
  const rawOf = (sizeBytes: number): string => join(scratch.path, `disk-${sizeBytes}.raw`);
  beforeAll(() => {
    for (const size of [smallBytes, largeBytes]) writeFileSync(rawOf(size), whole.subarray(0, size));
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  function expectSame(image: string, model: Uint8Array): void {
    const truth = join(scratch.path, 'model.raw');
    writeFileSync(truth, model);
    must('qemu-img', ['check', '-q', image]);
    expect(qcow2(['check', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
    must('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'qcow2', truth, image]);
  }

  it.each(cases)(
    '[CMP-001, CMP-004, CMP-005, CMP-006, CMP-010, CMP-012] $type, clusters of $clusterBytes: made by qemu-img, read and overwritten',
    async ({ type, clusterBytes, sizeBytes }) => {
      const raw = rawOf(sizeBytes);
      const content = whole.slice(0, sizeBytes);
      const path = join(scratch.path, `qemu-${type}-${clusterBytes}.qcow2`);
      const options = `cluster_size=${clusterBytes},compression_type=${type}`;
      must('qemu-img', ['convert', '-q', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, raw, path]);
      const journalled = join(scratch.path, `journalled-${type}-${clusterBytes}.qcow2`);
      writeFileSync(journalled, readFileSync(path));
      // In a cluster of one or two sectors the header has no room to name a journal beside the rest.
      const hasRoom = clusterBytes >= 4096;
      if (hasRoom) expect(qcow2(['journal', 'enable', '-q', journalled]).status).toBe(0);
      for (const image of hasRoom ? [path, journalled] : [path]) {
        const model = content.slice();
        await withImage(image, async (opened) => {
          expect(Buffer.compare(await readAll(opened), model)).toBe(0);
          await overwrite(opened, model, seededRandom(clusterBytes));
          expect(Buffer.compare(await readAll(opened), model)).toBe(0);
        });
        expectSame(image, model);
      }
    },
  );

  it.each(cases)(
    '[CMP-010, CMP-013, CMP-014, CMP-015] $type, clusters of $clusterBytes: written by us, read and overwritten by QEMU',
    async ({ type, clusterBytes, sizeBytes }) => {
      const raw = rawOf(sizeBytes);
      const content = whole.slice(0, sizeBytes);
      const path = join(scratch.path, `ours-${type}-${clusterBytes}.qcow2`);
      const file = openFile(path, { create: 'exclusive' });
      const compressionType = type === 'zlib' ? 'deflate' : type;
      await createImage(file, { sizeBytes, clusterBytes, compressionType });
      file.close();
      const model = content.slice();
      await withImage(path, async (image) => {
        const step = Math.max(clusterBytes, 1 << 20);
        for (let at = 0; at < sizeBytes; at += step) {
          await image.writeCompressed(at, model.subarray(at, at + step));
        }
      });
      expectSame(path, model);
      // As small as QEMU makes it, give or take what the two compress to.
      const theirs = join(scratch.path, 'theirs.qcow2');
      const options = `cluster_size=${clusterBytes},compression_type=${type}`;
      must('qemu-img', [
        'convert',
        '-q',
        '-c',
        '-S',
        '0',
        '-f',
        'raw',
        '-O',
        'qcow2',
        '-o',
        options,
        raw,
        theirs,
      ]);
      expect(endOffset(path)).toBeLessThan(1.05 * endOffset(theirs) + 4 * clusterBytes);
      const random = seededRandom(clusterBytes + 1);
      const commands: string[] = [];
      for (let i = 0; i < 20; i++) {
        const at = random.between(0, sizeBytes / 512 - 1) * 512;
        const length = Math.min(sizeBytes - at, random.between(1, 200) * 512);
        const byte = random.between(0, 255);
        model.fill(byte, at, at + length);
        commands.push('-c', byte === 0 ? `write -z ${at} ${length}` : `write -P ${byte} ${at} ${length}`);
      }
      must('qemu-io', [...commands, path]);
      await withImage(path, async (image) => {
        expect(Buffer.compare(await readAll(image), model)).toBe(0);
      });
      expectSame(path, model);
    },
  );

  it.each(types)('%s is served over NBD', async (type) => {
    const raw = rawOf(smallBytes);
    const path = join(scratch.path, `served-${type}.qcow2`);
    must('qemu-img', [
      'convert',
      '-q',
      '-c',
      '-O',
      'qcow2',
      '-o',
      `compression_type=${type}`,
      '-f',
      'raw',
      raw,
      path,
    ]);
    const socket = join(scratch.path, `${type}.sock`);
    const server = await startServer(['-t', '-k', socket, path]);
    const url = `nbd+unix:///?socket=${socket}`;
    must('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'raw', raw, url]);
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 9 70000 3000', '-c', 'read -P 9 70000 3000', url]);
    expect(await server.end('SIGTERM')).toBe(0);
    const model = whole.slice(0, smallBytes).fill(9, 70_000, 73_000);
    expectSame(path, model);
  });

  it.each(types)('create and info say %s as qemu-img does', (type) => {
    const told = (['qemu-img', 'qcow2'] as const).map((program) => {
      const path = join(scratch.path, 'created.qcow2');
      const args = ['create', '-f', 'qcow2', '-o', `compression_type=${type}`, path, '1M'];
      const created = program === 'qcow2' ? qcow2(args) : { stdout: must(program, args) };
      const info = must('qemu-img', ['info', '--output=json', path]);
      return [created.stdout, JSON.parse(info)['format-specific']];
    });
    expect(told[1]).toEqual(told[0]);
  });

  function endOffset(image: string): number {
    return JSON.parse(must('qemu-img', ['check', '--output=json', image]))['image-end-offset'];
  }
});
