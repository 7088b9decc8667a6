import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FileCalls, nodeCalls, openFile } from '@qcow2/fs';
import { afterAll, describe, expect, it } from 'vitest';
import { reserveSpace, type SpaceReservation } from './preallocation.ts';

const folder = mkdtempSync(join(tmpdir(), 'qcow2-space-'));
afterAll(() => rmSync(folder, { recursive: true }));
const sizeBytes = 3 * 1024 * 1024 + 100;

describe('space for a new file', () => {
  it.each<[SpaceReservation, FileCalls]>([
    ['falloc', nodeCalls],
    ['full', nodeCalls],
    ['falloc', { ...nodeCalls, native: undefined }],
    ['full', { ...nodeCalls, native: undefined }],
  ])('%s is there, and its bytes are what they were', async (how, calls) => {
    const path = join(folder, 'file');
    const device = openFile(path, { create: 'truncate', calls });
    device.resize(sizeBytes);
    device.write(1_500_000, new Uint8Array(100_000).fill(7));
    expect(statSync(path).blocks * 512).toBeLessThan(sizeBytes);
    await reserveSpace(device, how);
    device.close();
    expect(statSync(path).size).toBe(sizeBytes);
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(sizeBytes);
    const expected = new Uint8Array(sizeBytes).fill(7, 1_500_000, 1_600_000);
    expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
  });

  it('of an empty file is none', async () => {
    const device = openFile(join(folder, 'empty'), { create: 'exclusive' });
    for (const how of ['falloc', 'full'] as const) await reserveSpace(device, how);
    expect(device.sizeBytes).toBe(0);
  });
});
