import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { benefitCases } from './cases.ts';
import {
  databaseMix,
  encodeOperations,
  flushedEvery,
  randomFrom,
  scatteredWrites,
  sequentialWrites,
  staysIn,
  sumOf,
  type Write,
} from './operations.ts';

const place = { guestOffset: 2 ** 33, lengthBytes: 2 ** 24 };

describe('operations', () => {
  it('scatters writes over clusters, each touched once, the same for the same seed', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 256 }), (seed, count) => {
        const writes = scatteredWrites(place, count, 4096, randomFrom(seed));
        expect(new Set(writes.map(({ guestOffset }) => Math.floor(guestOffset / 65536))).size).toBe(count);
        expect(staysIn(writes, place)).toBe(true);
        expect(scatteredWrites(place, count, 4096, randomFrom(seed))).toEqual(writes);
      }),
      { numRuns: 50 },
    );
  });

  it('flushes after every so many writes, and after the last', () => {
    const writes = sequentialWrites(place, 5, 512);
    const kinds = (every: number | 'never'): string =>
      flushedEvery(writes, every)
        .map(({ kind }) => kind[0])
        .join('');
    expect(kinds(1)).toBe('wfwfwfwfwf');
    expect(kinds(2)).toBe('wwfwwfwf');
    expect(kinds('never')).toBe('wwwww');
  });

  it('makes the log of a database append first, and overwrite then', () => {
    const shape = { checkpoints: 3, commitsPerCheckpoint: 4, pagesPerCheckpoint: 2, logBytes: 8 * 4096 };
    const operations = databaseMix(place, shape, randomFrom(1));
    expect(sumOf(operations)).toEqual({ writes: 18, guestBytes: 12 * 4096 + 6 * 8192, flushes: 15 });
    const log = operations.filter((one): one is Write => one.kind === 'write' && one.lengthBytes === 4096);
    expect(log.map(({ guestOffset }) => (guestOffset - place.guestOffset) / 4096)).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3,
    ]);
    // The pages stay off the log.
    const pages = operations.filter((one): one is Write => one.kind === 'write' && one.lengthBytes === 8192);
    for (const { guestOffset } of pages)
      expect(guestOffset).toBeGreaterThanOrEqual(place.guestOffset + 65536);
  });

  it('encodes for the load client', () => {
    const bytes = encodeOperations([
      { kind: 'write', guestOffset: 2 ** 33 + 512, lengthBytes: 4096 },
      { kind: 'flush' },
    ]);
    expect([...bytes]).toEqual([
      ...[0, 2, 0, 0, 2, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0],
      ...[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0],
    ]);
  });
});

describe('cases', () => {
  it('have names of their own', () => {
    expect(new Set(benefitCases.map(({ name }) => name)).size).toBe(benefitCases.length);
  });

  it.each(benefitCases)('$name stays in its place, and writes nothing twice unless it means to', (one) => {
    for (const share of [1, 0.1]) {
      const at = { guestOffset: 3 * one.placeBytes, lengthBytes: one.placeBytes };
      const operations = one.operations(at, randomFrom(7), share);
      expect(staysIn(operations, at)).toBe(true);
      expect(sumOf(operations).writes).toBeGreaterThan(0);
      if (one.name === 'database') continue;
      const offsets = operations.flatMap((each) => (each.kind === 'write' ? [each.guestOffset] : []));
      expect(new Set(offsets).size).toBe(offsets.length);
    }
  });

  it.each(benefitCases.filter(({ name }) => name.startsWith('sequential')))(
    '$name fills the clusters that it begins one after the other',
    (one) => {
      const operations = one.operations({ guestOffset: 0, lengthBytes: one.placeBytes }, randomFrom(1), 1);
      expect(sumOf(operations).guestBytes % 65536).toBe(0);
      expect(one.placeBytes % 65536).toBe(0);
    },
  );
});
