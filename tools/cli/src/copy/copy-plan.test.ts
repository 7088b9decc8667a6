import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, test } from 'vitest';
import { type CopyPiece, inUnits, joinedReader, type PieceKind } from './copy-plan.ts';

type Row = readonly [kind: PieceKind, offset: number, lengthBytes: number];

async function cut(rows: readonly Row[], unitBytes: number, mostBytes: number): Promise<Row[]> {
  const given = rows.map(([kind, offset, lengthBytes]): CopyPiece => ({ kind, offset, lengthBytes }));
  const pieces = inUnits(asynchronously(given), unitBytes, mostBytes);
  const found: Row[] = [];
  for await (const { kind, offset, lengthBytes } of pieces) found.push([kind, offset, lengthBytes]);
  return found;
}

async function* asynchronously<T>(values: readonly T[]): AsyncGenerator<T> {
  yield* values;
}

describe('pieces in units of the target', () => {
  test('a unit that is data in part is data as a whole', async () => {
    expect(
      await cut(
        [
          ['data', 0, 512],
          ['zero', 512, 3584],
          ['zero', 4096, 4096],
        ],
        4096,
        8192,
      ),
    ).toEqual([
      ['data', 0, 4096],
      ['zero', 4096, 4096],
    ]);
    expect(
      await cut(
        [
          ['leave', 0, 1000],
          ['data', 1000, 24],
          ['leave', 1024, 3072],
        ],
        4096,
        4096,
      ),
    ).toEqual([['data', 0, 4096]]);
  });

  test('zeros and what is left stay apart within a unit', async () => {
    const rows: Row[] = [
      ['zero', 0, 1024],
      ['leave', 1024, 3072],
    ];
    expect(await cut(rows, 4096, 4096)).toEqual(rows);
  });

  test('data is cut to what a buffer holds, the rest is not', async () => {
    const rows: Row[] = [
      ['data', 0, 10_000],
      ['zero', 10_000, 100_000],
    ];
    expect(await cut(rows, 4096, 4096)).toEqual([
      ['data', 0, 4096],
      ['data', 4096, 4096],
      ['data', 8192, 4096],
      ['zero', 12_288, 94_208],
      ['zero', 106_496, 3504],
    ]);
  });

  test('whatever the pieces, their ranges follow one another and cover the same', async () => {
    for (let seed = 1; seed < 60; seed++) {
      const rows: Row[] = [];
      let state = seed;
      const next = (limit: number): number => {
        state = (state * 48271) % 2147483647;
        return state % limit;
      };
      let at = 0;
      for (let i = 0; i < 20; i++) {
        const length = 512 * (1 + next(next(3) === 0 ? 40 : 6));
        rows.push([(['data', 'zero', 'leave'] as const)[next(3)] ?? 'data', at, length]);
        at += length;
      }
      const found = await cut(rows, 2048, 4096);
      let reached = 0;
      for (const [kind, offset, lengthBytes] of found) {
        expect(offset, `seed ${seed}`).toBe(reached);
        reached += lengthBytes;
        if (kind !== 'data') continue;
        expect(offset % 2048, `seed ${seed}`).toBe(0);
        expect(lengthBytes, `seed ${seed}`).toBeLessThanOrEqual(4096);
        expect(lengthBytes % 2048 === 0 || reached === at, `seed ${seed}`).toBe(true);
      }
      expect(reached, `seed ${seed}`).toBe(at);
      for (const [kind, offset, lengthBytes] of rows) {
        const others = found.filter(
          ([, from, length]) => from < offset + lengthBytes && from + length > offset,
        );
        if (kind === 'data')
          expect(
            others.every(([found]) => found === 'data'),
            `seed ${seed}`,
          ).toBe(true);
      }
    }
  });
});

test('disks one behind the other are read as one', async () => {
  const disk = (value: number, sizeBytes: number): MemoryDevice => {
    const device = new MemoryDevice({ sizeBytes });
    device.write(0, new Uint8Array(sizeBytes).fill(value));
    return device;
  };
  const reader = joinedReader([
    { device: disk(1, 512), layers: [], startsAt: 0 },
    { device: disk(2, 0), layers: [], startsAt: 512 },
    { device: disk(3, 1024), layers: [], startsAt: 512 },
  ]);
  const into = new Uint8Array(1024);
  await reader.read(256, into);
  expect([into[0], into[255], into[256], into[1023]]).toEqual([1, 1, 3, 3]);
});
