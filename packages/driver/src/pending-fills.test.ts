import { describe, expect, it } from 'vitest';
import { random } from '../test/support/random.ts';
import { PendingFills } from './pending-fills.ts';

const clusterBytes = 4096;
const sectors = clusterBytes / 512;

/** By target sector: where its bytes stand, since when, and whether they are in place. */
interface ModelSector {
  readonly from: string;
  readonly time: number;
  unfilled: boolean;
}

describe('pending fills', () => {
  it('are, sector by sector, what a map of sectors says', () => {
    const rng = random(4);
    for (let round = 0; round < 30; round++) {
      const fills = new PendingFills(clusterBytes);
      const model = new Map<number, ModelSector>();
      let time = 0;
      const revokes: { at: number; count: number; time: number }[] = [];
      for (let step = 0; step < 80; step++) {
        const first = rng.below(3 * sectors);
        const count = 1 + rng.below(sectors - (first % sectors));
        const each = (change: (sector: number) => void): void => {
          for (let i = 0; i < count; i++) change(first + i);
        };
        switch (rng.below(4)) {
          case 0: {
            const source = 1000 * sectors + rng.below(1000);
            fills.add(first * 512, count * 512, { kind: 'copy', hostOffset: source * 512 }, 0);
            time++;
            each((sector) => {
              model.set(sector, { from: `copy ${source + sector - first}`, time, unfilled: true });
            });
            break;
          }
          case 1:
            fills.written(first * 512, count * 512);
            each((sector) => {
              const known = model.get(sector);
              if (known !== undefined) known.unfilled = false;
            });
            revokes.push({ at: first, count, time });
            break;
          case 2: {
            const revoke = revokes.shift();
            if (revoke === undefined) break;
            fills.end(revoke.at * 512, revoke.count * 512, revoke.time);
            for (let i = 0; i < revoke.count; i++) {
              const known = model.get(revoke.at + i);
              if (known !== undefined && known.time <= revoke.time) model.delete(revoke.at + i);
            }
            break;
          }
          default:
            fills.cancel(first * 512, count * 512, 'revoke', 0);
            each((sector) => model.delete(sector));
        }
        const seen: string[] = [];
        for (const { hostOffset, lengthBytes, source } of fills.segments(0, 3 * clusterBytes)) {
          for (let at = 0; at < lengthBytes; at += 512) {
            if (source?.kind === 'copy') seen.push(`copy ${(source.hostOffset + at) / 512}`);
            else seen.push(`place ${(hostOffset + at) / 512}`);
          }
        }
        const expected = Array.from({ length: 3 * sectors }, (_, sector) => {
          const known = model.get(sector);
          return known?.unfilled === true ? known.from : `place ${sector}`;
        });
        expect(seen).toEqual(expected);
        const touched = Array.from({ length: 3 * sectors }, (_, sector) => fills.touches(sector * 512, 512));
        expect(touched).toEqual(Array.from(touched, (_, sector) => model.has(sector)));
        expect(fills.isEmpty).toBe(model.size === 0);
        expect(fills.liveParts).toBeLessThanOrEqual(model.size);
        expect(fills.liveParts > 0).toBe(model.size > 0);
      }
    }
  });

  it('tell what was added up to a time from what came later, and count their parts', () => {
    const fills = new PendingFills(clusterBytes);
    fills.add(0, 1536, { kind: 'copy', hostOffset: 5 * clusterBytes }, 0);
    const then = fills.now;
    fills.add(2048, 512, { kind: 'copy', hostOffset: 6 * clusterBytes }, 0);
    fills.add(clusterBytes, 512, { kind: 'copy', hostOffset: 7 * clusterBytes }, 0);
    expect(fills.unfilled()).toEqual([
      { hostCluster: 0, bytes: 2048 },
      { hostCluster: 1, bytes: 512 },
    ]);
    expect(fills.unfilled(then)).toEqual([{ hostCluster: 0, bytes: 1536 }]);
    expect(fills.liveParts).toBe(3);
    fills.written(512, 512);
    expect(fills.liveParts).toBe(5);
    expect(fills.unfilled(then)).toEqual([{ hostCluster: 0, bytes: 1024 }]);
    fills.end(0, clusterBytes, then);
    expect(fills.liveParts).toBe(2);
    fills.end(0, 2 * clusterBytes);
    expect(fills.liveParts).toBe(0);
  });

  it('pin the clusters that they copy from until the last part is gone', () => {
    const pinned = new Set<number>();
    const fills = new PendingFills(clusterBytes);
    fills.add(0, 512, { kind: 'copy', hostOffset: 5 * clusterBytes }, 0);
    fills.pins = { pin: (cluster) => pinned.add(cluster), unpin: (cluster) => pinned.delete(cluster) };
    fills.add(512, 1024, { kind: 'copy', hostOffset: 8 * clusterBytes - 512 }, 0);
    fills.add(clusterBytes, 512, { kind: 'copy', hostOffset: 5 * clusterBytes }, 0);
    fills.add(2 * clusterBytes, 512, { kind: 'backing', guestOffset: 0 }, 0);
    expect([...pinned].sort()).toEqual([5, 7, 8]);
    fills.written(0, 1536);
    fills.end(0, 1024);
    expect([...pinned].sort()).toEqual([5, 7, 8]);
    fills.end(1024, 512);
    expect([...pinned]).toEqual([5]);
    fills.end(0, 2 ** 40);
    expect([...pinned]).toEqual([]);
    expect(fills.isEmpty).toBe(true);
  });
});
