import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CommitModel, type CommitModelOptions, clusterBytes, pageBytes } from './commit-model.ts';

const places = { slotOffset: 0, l2Offset: 2 ** 20, refcountOffset: 2 ** 21, dataOffset: 2 ** 30 };
const modelOf = (
  options: Pick<CommitModelOptions, 'design' | 'blockBytes'>,
  ringBytes = 2 ** 20,
): CommitModel => new CommitModel({ ...options, ringBytes, ...places });

describe('what a flush writes', () => {
  it.each([
    ['logical', 512, 4608],
    ['physical', 512, 4608],
    ['logical', 4096, 8192],
    ['physical', 4096, 8192],
  ] as const)('%s records with blocks of %i bytes: %i bytes for a page', (design, blockBytes, expected) => {
    expect(modelOf({ design, blockBytes }).commit(7)).toEqual({ recordBytes: expected, inPlace: [] });
  });

  it.each(['logical', 'physical'] as const)(
    '%s: every page that was logged comes in place, once',
    (design) => {
      const distinctPages = fc.uniqueArray(fc.integer({ min: 0, max: 4095 }), {
        minLength: 200,
        maxLength: 400,
      });
      fc.assert(
        fc.property(distinctPages, (pages) => {
          const model = modelOf({ design, blockBytes: 4096 });
          const data: number[] = [];
          const commit = (page: number): void => {
            for (const { offset, lengthBytes } of model.commit(page).inPlace) {
              for (let at = offset; at < offset + lengthBytes; at += pageBytes) {
                if (at >= places.dataOffset) data.push(at);
              }
            }
          };
          for (const page of pages) commit(page);
          expect(new Set(data).size).toBe(data.length);
          // Others, until the write-back of all of the first ones is done.
          for (let page = 10_000; page < 11_000; page++) commit(page);
          expect(data.length).toBeGreaterThanOrEqual(pages.length);
        }),
        { numRuns: 20 },
      );
    },
  );

  it('writes a page in place, and no record, where its cluster is allocated and not in the log', () => {
    const model = modelOf({ design: 'physical', blockBytes: 4096 });
    for (let page = 0; page < 160; page++) model.commit(page * 16);
    expect(model.commit(0)).toMatchObject({ recordBytes: 0 });
    expect(model.commit(1).inPlace[0]).toEqual({
      offset: places.dataOffset + pageBytes,
      lengthBytes: pageBytes,
    });
  });

  it('moves the tail by a slot write once a round is done', () => {
    const model = modelOf({ design: 'logical', blockBytes: 512 });
    const slots: number[] = [];
    for (let i = 0; i < 1000; i++) {
      const slot = model.commit(i * 16).inPlace.some(({ offset }) => offset === places.slotOffset);
      if (slot) slots.push(i);
    }
    // A quarter of the ring is 57 records.
    expect(slots.length).toBeGreaterThanOrEqual(5);
    expect(slots.length).toBeLessThanOrEqual(1000 / 57);
  });

  it('allocates clusters one after the other, in the order of write-back', () => {
    const model = modelOf({ design: 'logical', blockBytes: 4096 });
    const offsets: number[] = [];
    for (let i = 0; i < 100; i++) {
      for (const { offset } of model.commit((100 - i) * 16).inPlace)
        if (offset >= places.dataOffset) offsets.push(offset);
    }
    expect(offsets.length).toBeGreaterThan(10);
    expect(offsets.map((offset) => Math.floor((offset - places.dataOffset) / clusterBytes))).toEqual(
      offsets.map((_, i) => i),
    );
  });
});
