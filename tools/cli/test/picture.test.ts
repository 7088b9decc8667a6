/** Pictures of a file's use: the counts behind them, by an image of which every cluster is known. */
import { stripVTControlCharacters } from 'node:util';
import { MemoryDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { createImage, openImage, readImageHeader } from '@qcow2/driver';
import { describe, expect, it } from 'vitest';
import { hostUse, uses } from '../src/picture/host-use.ts';
import { svgPicture, textPicture } from '../src/picture/pictures.ts';

const clusterBytes = 4096;

class Kept extends MemoryDevice {
  override close(): void {
    // It is looked at afterwards.
  }
}

async function made() {
  const device = new Kept();
  const journal = { sizeBytes: 65536, blockBytes: 512 };
  await createImage(device, { sizeBytes: 1 << 20, clusterBytes, journal });
  const image = await openImage(device, { compression: nodeCompression() });
  await image.write(0, new Uint8Array(3 * clusterBytes).fill(1));
  await image.createSnapshot({ name: 'one' });
  await image.write(10 * clusterBytes, new Uint8Array(2 * clusterBytes).fill(2));
  await image.writeCompressed(20 * clusterBytes, new Uint8Array(4 * clusterBytes).fill(3));
  await image.write(30 * clusterBytes, new Uint8Array(5 * clusterBytes).fill(4));
  await image.discard(30 * clusterBytes, 5 * clusterBytes);
  await image.close();
  const { header } = await readImageHeader(device);
  return { device, header };
}

describe('the use of a file', () => {
  it('is counted by cluster, and cells add up to it', async () => {
    const { device, header } = await made();
    const use = await hostUse(device, header, 7);
    expect(use.clusters).toBe(Math.ceil(device.sizeBytes / clusterBytes));
    expect(use.cells.length).toBeLessThanOrEqual(7);
    // Header, refcount table and block, two L1 tables, two L2 tables, the snapshot table.
    expect(use.total).toMatchObject({ data: 2, compressed: 1, shared: 3, metadata: 8, journal: 16 });
    expect(uses.reduce((sum, kind) => sum + use.total[kind], 0)).toBe(use.clusters);
    for (const kind of uses) {
      expect(use.cells.reduce((sum, cell) => sum + cell[kind], 0)).toBe(use.total[kind]);
    }
  });

  it('is drawn with a sign for each cluster, and the same in colour', async () => {
    const { device, header } = await made();
    const use = await hostUse(device, header, 1000);
    const text = textPicture(use, { columns: 16, colour: false });
    const signs = text
      .split('\n\n')[0]!
      .split('\n')
      .map((line) => line.replace(/^ *0x[0-9a-f]+ {2}/, ''))
      .join('');
    expect(signs.length).toBe(use.clusters);
    for (const [sign, count] of [
      ['J', 16],
      ['+', 3],
      ['c', 1],
      ['#', 2],
      ['M', 8],
    ] as const) {
      expect(signs.split(sign).length - 1, sign).toBe(count);
    }
    const coloured = textPicture(use, { columns: 16, colour: true });
    expect(stripVTControlCharacters(coloured)).toBe(text);
  });

  it('is an SVG document with a square for each cell', async () => {
    const { device, header } = await made();
    const svg = svgPicture(await hostUse(device, header, 1000), 16);
    expect(svg.match(/<rect [^>]*><title>/g)!.length).toBe(Math.ceil(device.sizeBytes / clusterBytes));
    expect(svg).toContain('shared with snapshots: 12 KiB');
  });
});
