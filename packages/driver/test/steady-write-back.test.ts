/**
 * Write-back is steady: what it adds to one flush is bounded, however much waits. Counted, not timed: each write
 * of the file between two flushes is about what the host's file system pays for by the piece.
 */
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../src/index.ts';
import { type FlushCost, FlushCostDevice } from './support/counting-flushes.ts';
import { random } from './support/random.ts';

const pageBytes = 4096;
const page = new Uint8Array(pageBytes).fill(7);

interface Load {
  readonly sizeBytes: number;
  readonly flushes: number;
  readonly writesPerFlush: number;
  readonly backing?: boolean;
  /** Guest offset of a write, in pages. */
  readonly place: (write: number) => number;
}

/** Flushed writes on a default journal; what each flush of the file carried, from when write-back has begun. */
async function costs(load: Load): Promise<{ costs: FlushCost[]; stalls: number; rounds: number }> {
  const memory = new MemoryDevice();
  const backing = load.backing === true ? new MemoryDevice({ sizeBytes: load.sizeBytes }) : undefined;
  await createImage(memory, {
    sizeBytes: load.sizeBytes,
    journal: {},
    ...(backing === undefined ? {} : { backingFile: 'base', backingFormat: 'raw' }),
  });
  const device = new FlushCostDevice(memory);
  const image = await openImage(device, backing === undefined ? {} : { backing });
  let write = 0;
  for (let flush = 0; flush < load.flushes; flush++) {
    for (let i = 0; i < load.writesPerFlush; i++) {
      await image.write(load.place(write++) * pageBytes, page);
    }
    await image.flush();
  }
  const { stalls, rounds } = image.journalStatus()!.counters!;
  const measured = device.costs.slice(Math.floor(device.costs.length / 3));
  image.abandon();
  expect(device.costs.length).toBeLessThan(load.flushes * 1.02);
  return { costs: measured, stalls, rounds };
}

function most(all: readonly FlushCost[], of: (cost: FlushCost) => number): number {
  return all.reduce((max, cost) => Math.max(max, of(cost)), 0);
}

describe('what write-back adds to one flush', () => {
  it('[JRN-WB-008, JRN-WB-012] is a few places, when small writes go everywhere and each is flushed', async () => {
    const rng = random(1);
    const sizeBytes = 4 * 2 ** 30;
    const place = (): number => rng.below(sizeBytes / pageBytes);
    const found = await costs({ sizeBytes, flushes: 4000, writesPerFlush: 1, place });
    expect(found.rounds).toBeGreaterThan(3);
    expect(found.stalls).toBe(0);
    expect(most(found.costs, ({ writes }) => writes)).toBeLessThanOrEqual(24);
    expect(most(found.costs, ({ bytes }) => bytes)).toBeLessThanOrEqual(128 * 1024);
    // Not a trickle either: a flush that settles anything settles several.
    const stepping = found.costs.filter(({ dataWrites }) => dataWrites > 0);
    const settled = stepping.reduce((sum, { dataWrites }) => sum + dataWrites, 0);
    expect(settled / stepping.length).toBeGreaterThan(4);
  });

  it('is two clusters and their record, when writes fill clusters one after the other', async () => {
    const found = await costs({
      sizeBytes: 2 ** 30,
      flushes: 4000,
      writesPerFlush: 1,
      place: (write) => write,
    });
    expect(found.rounds).toBeGreaterThan(3);
    expect(most(found.costs, ({ bytes }) => bytes)).toBeLessThanOrEqual(160 * 1024);
  });

  it('is two clusters as well where each is completed from a backing file', async () => {
    const rng = random(2);
    const sizeBytes = 2 ** 30;
    const place = (): number => rng.below(sizeBytes / pageBytes);
    const found = await costs({ sizeBytes, flushes: 2500, writesPerFlush: 1, backing: true, place });
    expect(found.rounds).toBeGreaterThan(1);
    expect(found.stalls).toBe(0);
    expect(most(found.costs, ({ bytes }) => bytes)).toBeLessThanOrEqual(256 * 1024);
  });

  it('grows with what each flush brings itself', async () => {
    const rng = random(3);
    const sizeBytes = 4 * 2 ** 30;
    const place = (): number => rng.below(sizeBytes / pageBytes);
    const found = await costs({ sizeBytes, flushes: 400, writesPerFlush: 16, place });
    expect(found.stalls).toBe(0);
    expect(most(found.costs, ({ writes }) => writes)).toBeLessThanOrEqual(16 * 6);
  });
});
