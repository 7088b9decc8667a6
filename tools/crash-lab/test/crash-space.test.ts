/**
 * The space of crash states against brute force: carry out every subset of the pending writes in every
 * order, torn in every way at sector boundaries, and compare the set of disks that come out.
 */
import { MemoryDevice, type RecordedOperation, RecordingDevice } from '@qcow2/block-device';
import { SeededRandom } from '@qcow2/seeded';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomChoice, structuredChoices } from '../src/choices.ts';
import { applyChange, type CrashPoint, crashPoints, type DeviceChange } from '../src/crash-point.ts';
import { CrashSpace } from '../src/crash-space.ts';
import { SectorImage } from '../src/sector-image.ts';

interface SmallWrite {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly fill: number;
}

const smallWrite = fc.record({
  offset: fc.oneof(fc.constantFrom(0, 512, 1024, 1536), fc.integer({ min: 0, max: 1800 })),
  lengthBytes: fc.oneof(fc.constantFrom(512, 1024), fc.integer({ min: 1, max: 900 })),
  fill: fc.integer({ min: 1, max: 255 }),
});

function pointOf(durable: SectorImage, writes: readonly SmallWrite[]): CrashPoint {
  const pending = writes.map(
    ({ offset, lengthBytes, fill }, serial): DeviceChange => ({
      kind: 'write',
      serial,
      event: undefined,
      startedAt: 2 * serial,
      completedAt: 2 * serial + 1,
      failed: false,
      offset,
      bytes: new Uint8Array(lengthBytes).fill(fill),
      fua: false,
    }),
  );
  return { index: 0, deviceTime: 100, durable, pending, allowed: undefined };
}

/** Every way to tear a write: every subset of the sectors that it touches. */
function tears(write: SmallWrite): SmallWrite[][] {
  const parts: SmallWrite[] = [];
  for (let at = write.offset; at < write.offset + write.lengthBytes; ) {
    const end = Math.min(write.offset + write.lengthBytes, (Math.floor(at / 512) + 1) * 512);
    parts.push({ offset: at, lengthBytes: end - at, fill: write.fill });
    at = end;
  }
  return Array.from({ length: 1 << parts.length }, (_, mask) =>
    parts.filter((_part, index) => (mask & (1 << index)) !== 0),
  );
}

function* orders<T>(items: readonly T[]): Generator<T[]> {
  if (items.length === 0) yield [];
  for (const [index, item] of items.entries()) {
    for (const rest of orders(items.filter((_, other) => other !== index))) yield [item, ...rest];
  }
}

/** Sectors of a write may also arrive apart in time, with other writes between: all orders of the pieces. */
function bruteForce(
  durable: SectorImage,
  writes: readonly SmallWrite[],
  sizes: readonly number[],
): Set<string> {
  const keys = new Set<string>();
  const visit = (at: number, pieces: SmallWrite[]): void => {
    const write = writes[at];
    if (write !== undefined) {
      for (const torn of tears(write)) visit(at + 1, [...pieces, ...torn]);
      return;
    }
    for (const order of orders(pieces)) {
      const image = durable.clone();
      for (const { offset, lengthBytes, fill } of order)
        image.write(offset, new Uint8Array(lengthBytes).fill(fill));
      for (const size of sizes) {
        const cut = image.clone();
        cut.resize(Math.min(size, cut.sizeBytes));
        cut.resize(size);
        keys.add(cut.key());
      }
    }
  };
  visit(0, []);
  return keys;
}

function keysOf(space: CrashSpace): string[] {
  return [...space.choices()].map((choice) => space.image(choice).key());
}

describe('the space of crash states', () => {
  it('is exactly what brute force gives: subsets, orders, tears, lengths', () => {
    fc.assert(
      fc.property(
        fc.array(smallWrite, { minLength: 1, maxLength: 3 }).filter((writes) => {
          const pieces = writes.reduce((sum, write) => sum + tears(write).length, 0);
          return pieces <= 12;
        }),
        fc.integer({ min: 1, max: 2200 }),
        (writes, durableBytes) => {
          const durable = SectorImage.fromBytes(new Uint8Array(durableBytes).fill(0xee));
          const space = new CrashSpace(pointOf(durable, writes));
          expect(space.complete).toBe(true);
          const mine = keysOf(space);
          expect(BigInt(mine.length)).toBe(space.total);
          expect(new Set(mine)).toEqual(bruteForce(durable, writes, space.sizes));
        },
      ),
      { numRuns: 150 },
    );
  });

  it('numbers its states without gaps: decoding and encoding are inverse', () => {
    fc.assert(
      fc.property(
        fc.array(smallWrite, { maxLength: 4 }),
        fc.integer({ min: 0, max: 2200 }),
        (writes, bytes) => {
          const durable = SectorImage.fromBytes(new Uint8Array(bytes).fill(0xee));
          const space = new CrashSpace(pointOf(durable, writes));
          let number = 0n;
          for (const choice of space.choices()) {
            if (number > 300n) break;
            expect(space.encode(choice)).toBe(number);
            const again = space.decode(number);
            expect(space.image(again).key()).toBe(space.image(choice).key());
            number++;
          }
          if (number <= 300n) expect(number).toBe(space.total);
        },
      ),
    );
  });

  it('contains what the structured families and the random draws pick', () => {
    fc.assert(
      fc.property(
        fc.array(smallWrite, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 0, max: 2200 }),
        fc.integer(),
        (writes, bytes, seed) => {
          const durable = SectorImage.fromBytes(new Uint8Array(bytes).fill(0xee));
          const space = new CrashSpace(pointOf(durable, writes));
          const all = new Set(keysOf(space));
          const picked = [...structuredChoices(space)];
          const random = new SeededRandom(seed);
          for (let drawn = 0; drawn < 20; drawn++) picked.push(randomChoice(space, random));
          for (const choice of picked) {
            expect(space.encode(choice) < space.total).toBe(true);
            expect(all.has(space.image(choice).key())).toBe(true);
          }
          const kept = durable.clone();
          for (const change of space.pending) applyChange(kept, change);
          expect(picked.map((choice) => space.image(choice).key())).toContain(kept.key());
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('crash points', () => {
  it('keep what a flush covered, and nothing that came after it began', async () => {
    const device = new RecordingDevice(new MemoryDevice());
    await device.write(0, new Uint8Array(512).fill(1));
    await device.write(512, new Uint8Array(512).fill(2));
    await device.flush();
    await device.write(0, new Uint8Array(512).fill(3));
    const points = [...crashPoints({ base: new SectorImage(), log: device.log, allowed: [] })];
    expect(points.map(({ pending }) => pending.length)).toEqual([2, 1]);
    expect(new CrashSpace(points[0]!).total).toBe(1n + 2n + 4n); // lengths 0, 512, 1024
    expect(points[1]!.durable.sizeBytes).toBe(1024);
    expect(new CrashSpace(points[1]!).total).toBe(2n);
  });

  it('do not count a write that was under way when the flush began', () => {
    const write = (serial: number, startedAt: number, completedAt: number): RecordedOperation => ({
      kind: 'write',
      serial,
      event: undefined,
      startedAt,
      completedAt,
      failed: false,
      offset: serial * 512,
      bytes: new Uint8Array(512).fill(serial + 1),
      fua: false,
    });
    const flush: RecordedOperation = {
      kind: 'flush',
      serial: 2,
      event: undefined,
      startedAt: 3,
      completedAt: 5,
      failed: false,
    };
    const log = [write(0, 0, 1), write(1, 2, 4), flush];
    const points = [...crashPoints({ base: new SectorImage(), log, allowed: [] })];
    expect(points[1]!.durable.sizeBytes).toBe(512);
    expect(points[1]!.pending.map(({ serial }) => serial)).toEqual([1]);
  });
});
