/** The driver on every image that QEMU made: what it sees in it, reads from it, and leaves behind when it writes. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { vectorNames } from '@qcow2/conformance';
import { checkImage, openImage, probeImage, type Qcow2Image } from '@qcow2/driver';
import { UnsupportedFeatureError } from '@qcow2/spec';
import { afterAll, describe, expect, it } from 'vitest';
import { run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type GoldenImage, goldenImage } from './support/golden-image.ts';

const compression = nodeCompression();
const refusals: Readonly<Record<string, string>> = {
  'the corrupt bit': 'BAD_FIELD',
  'a data file that is only read': 'READ_ONLY',
};
const names = vectorNames();
const pieceBytes = 1 << 20;

/** Sectors that are written: at both ends, in the middle, and some that share a cluster with others. */
function changesOf(sizeBytes: number): { offset: number; bytes: Uint8Array }[] {
  const sectors = Math.floor(sizeBytes / 512);
  const places = [0, 1, 9, Math.floor(sectors / 3), Math.floor(sectors / 2), sectors - 1];
  return [...new Set(places)]
    .filter((sector) => sector >= 0 && sector < sectors)
    .map((sector, index) => ({ offset: sector * 512, bytes: new Uint8Array(512).fill(0xa1 + index) }));
}

async function sumOf(image: Qcow2Image): Promise<string> {
  const hash = createHash('sha256');
  const bytes = new Uint8Array(pieceBytes);
  for (let at = 0; at < image.sizeBytes; at += pieceBytes) {
    const piece = bytes.subarray(0, Math.min(pieceBytes, image.sizeBytes - at));
    await image.read(at, piece);
    hash.update(piece);
  }
  return hash.digest('hex');
}

async function wholeDisk(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

async function writeChanges(golden: GoldenImage, device: MemoryDevice): Promise<void> {
  const image = await openImage(device, { ...(await golden.options()), compression });
  for (const { offset, bytes } of changesOf(image.sizeBytes)) await image.write(offset, bytes);
  await image.flush();
  await image.quiesce();
  image.abandon();
}

describe.each(names)('%s', (name) => {
  const golden = goldenImage(name);
  const { manifest, unwritable } = golden;

  it('is described as qemu-img info does, and nothing is written', async () => {
    const device = new RecordingDevice(MemoryDevice.fromBytes(golden.bytes));
    const info = (await probeImage(device)).info();
    const said = manifest.qemu.info;
    const format = said['format-specific'].data;
    expect(info).toMatchObject({
      virtualSizeBytes: said['virtual-size'],
      clusterBytes: said['cluster-size'],
      compat: format.compat,
      refcountBits: format['refcount-bits'],
      lazyRefcounts: format['lazy-refcounts'] ?? false,
      corrupt: format.corrupt ?? false,
      dirtyFlag: said['dirty-flag'],
      extendedL2: format['extended-l2'] ?? false,
      encryption: format.encrypt?.format ?? 'none',
      dataFile: format['data-file'],
      dataFileRaw: format['data-file-raw'] ?? false,
    });
    expect(info.backingFormat).toBe(said['backing-filename-format']);
    expect(info.snapshots.map(({ id, name }) => [id, name])).toEqual(
      (said.snapshots ?? []).map(({ id, name }) => [id, name]),
    );
    expect(device.log).toEqual([]);
  });

  it('is checked with the outcome of qemu-img check, and nothing is written', async () => {
      const device = new RecordingDevice(MemoryDevice.fromBytes(golden.bytes));
      const report = await checkImage(device);
      const said = new Map(Object.entries(manifest.qemu.check));
      const count = (key: string): number => said.get(key) ?? 0;
      expect(report).toMatchObject({
        corruptions: count('corruptions'),
        leaks: count('leaks'),
        checkErrors: count('check-errors'),
        allocatedClusters: count('allocated-clusters'),
        compressedClusters: count('compressed-clusters'),
        fragmentedClusters: count('fragmented-clusters'),
        totalClusters: count('total-clusters'),
        imageEndOffset: count('image-end-offset'),
      });
      expect(device.log).toEqual([]);
    });

  if (manifest.guest !== undefined) {
    const { guest } = manifest;
    it('is read as qemu-img convert reads it', async () => {
      const device = new RecordingDevice(MemoryDevice.fromBytes(golden.bytes));
      const image = await openImage(device, { readOnly: true, ...(await golden.options()), compression });
      expect(image.sizeBytes).toBe(guest.sizeBytes);
      expect(await sumOf(image)).toBe(guest.sha256);
      expect(device.log).toEqual([]);
    });
  }

  if (manifest.qemu.info.encrypted === true) {
    it('[ENC-006] is refused without its secret', async () => {
      const image = await probeImage(MemoryDevice.fromBytes(golden.bytes));
      await expect(sumOf(image)).rejects.toMatchObject({ code: 'NO_SECRET' });
    });
  }

  if (unwritable === undefined) {
    it('is written, and is without fault then', async () => {
      const device = MemoryDevice.fromBytes(golden.bytes);
      await writeChanges(golden, device);
      const { corruptions, checkErrors, leaks, findings } = await checkImage(device);
      const leaksBefore = manifest.qemu.check.leaks ?? 0;
      expect({ corruptions, checkErrors, leaks, findings: findings.slice(0, leaksBefore) }).toEqual({
        corruptions: 0,
        checkErrors: 0,
        leaks: leaksBefore,
        findings: findings.filter(({ severity }) => severity === 'leak'),
      });
      const before = await openImage(golden.base, { readOnly: true, ...(await golden.options()), compression });
      const after = await openImage(device, { readOnly: true, ...(await golden.options()), compression });
      if (after.sizeBytes > 1 << 28) return;
      const expected = await wholeDisk(before);
      for (const { offset, bytes } of changesOf(before.sizeBytes)) expected.set(bytes, offset);
      expect(createHash('sha256').update(expected).digest('hex')).toBe(await sumOf(after));
    });
  } else {
    it(`is not opened for writing, or refuses to be written: ${unwritable}`, async () => {
      const device = new RecordingDevice(MemoryDevice.fromBytes(golden.bytes));
      const attempt = async (): Promise<void> => {
        const image = await openImage(device, { ...(await golden.options()), compression });
        for (const { offset, bytes } of changesOf(image.sizeBytes)) await image.write(offset, bytes);
      };
      await expect(attempt()).rejects.toMatchObject({
        code: refusals[unwritable] ?? 'UNSUPPORTED_FEATURE',
      });
      expect(device.log).toEqual([]);
    });
  }
});

describeWith(['qemu-img'], 'images that QEMU made and the driver wrote', () => {
  const folder = scratchFolder();
  afterAll(() => folder.remove());
  const some = ['v2-512', 'v2-64k', 'v3-4k', 'odd-size', 'zero-clusters', 'refcount-1', 'refcount-64'];

  const extended = ['extended-l2-16k', 'extended-l2-2m', 'extended-l2-compressed', 'extended-l2-snapshot'];
  const compressed = ['zlib-512', 'zlib-2m', 'zlib-mixed', 'zstd-4k', 'zstd-mixed'];

  it.each([...some, ...compressed, ...extended, 'snapshot-several', 'snapshot-v2', 'preallocation-metadata', 'resized-grown'])(
    '%s is without fault for qemu-img, and reads as what was written',
    async (name) => {
      const golden = goldenImage(name);
      const device = MemoryDevice.fromBytes(golden.bytes);
      await writeChanges(golden, device);
      const before = await openImage(golden.base, { readOnly: true, ...(await golden.options()), compression });
      const expected = await wholeDisk(before);
      for (const { offset, bytes } of changesOf(before.sizeBytes)) expected.set(bytes, offset);
      const image = join(folder.path, `${name}.qcow2`);
      const disk = join(folder.path, `${name}.raw`);
      writeFileSync(image, device.snapshot());
      writeFileSync(disk, expected);
      const check = run('qemu-img', ['check', '-f', 'qcow2', '--output=json', image]);
      expect(check.status, check.stdout + check.stderr).toBe(0);
      const compare = run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', image, disk]);
      expect(compare.status, compare.stdout + compare.stderr).toBe(0);
    },
  );
});
