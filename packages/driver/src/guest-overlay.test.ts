import { describe, expect, it } from 'vitest';
import { GuestOverlay } from './guest-overlay.ts';

const clusterBytes = 65536;

function filled(lengthBytes: number, byte: number): Uint8Array {
  return new Uint8Array(lengthBytes).fill(byte);
}

describe('runs of the overlay', () => {
  it('what was written in one piece is one run, in memory and in the record', () => {
    const overlay = new GuestOverlay(clusterBytes);
    const cluster = overlay.put(3, 0, filled(clusterBytes, 7));
    expect(overlay.runs(cluster)).toEqual([{ inCluster: 0, bytes: filled(clusterBytes, 7) }]);
    const writes = overlay.takeDirty(cluster, 2 * clusterBytes);
    expect(writes.map(({ guestOffset, bytes }) => [guestOffset, bytes.length])).toEqual([
      [3 * clusterBytes, clusterBytes],
    ]);
    expect(overlay.dirtyBytes).toBe(0);
  });

  it('pieces that stand apart in memory are runs of their own, in order', () => {
    const overlay = new GuestOverlay(clusterBytes);
    const cluster = overlay.put(0, 8192, filled(4096, 2));
    overlay.put(1, 0, filled(4096, 9));
    overlay.put(0, 4096, filled(4096, 1));
    const runs = overlay.runs(cluster).map(({ inCluster, bytes }) => [inCluster, bytes.length, bytes[0]]);
    expect(runs).toEqual([
      [4096, 4096, 1],
      [8192, 4096, 2],
    ]);
  });

  it('a record takes as much of a run as it has room for, whole sectors, and the next one the rest', () => {
    const overlay = new GuestOverlay(clusterBytes);
    const bytes = Uint8Array.from({ length: 16384 }, (_, i) => i >> 9);
    const cluster = overlay.put(0, 512, bytes);
    const taken: number[] = [];
    while (cluster.dirtySectors > 0) {
      for (const write of overlay.takeDirty(cluster, 24 + 5000)) {
        taken.push(...write.bytes);
        expect(write.guestOffset % 512).toBe(0);
      }
    }
    expect(Uint8Array.from(taken)).toEqual(bytes);
  });

  it('what is dropped splits a run', () => {
    const overlay = new GuestOverlay(clusterBytes);
    const cluster = overlay.put(0, 0, filled(clusterBytes, 7));
    overlay.drop(cluster, 8192, 512);
    const runs = overlay.runs(cluster).map(({ inCluster, bytes }) => [inCluster, bytes.length]);
    expect(runs).toEqual([
      [0, 8192],
      [8704, clusterBytes - 8704],
    ]);
  });
});
