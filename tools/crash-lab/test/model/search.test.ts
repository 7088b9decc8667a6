/** The model of the ring, gone through completely within small bounds; and with each protection left out. */
import { describe, expect, it } from 'vitest';
import { Model } from '../../src/model/model.ts';
import { type Mutant, mutants } from '../../src/model/mutant.ts';
import { complete, cover, lose, outcomes, visible, write } from '../../src/model/place.ts';
import { search, testBounds } from '../../src/model/search.ts';

describe('the ring model', () => {
  it('[JRN-WB-002, JRN-WB-004, JRN-SLOT-017, JRN-RECOV-010] holds in every state within the bounds', () => {
    const result = search(new Model(testBounds));
    expect(result.broken).toBeUndefined();
    // A search that reaches little proves little.
    expect(result.states).toBeGreaterThan(150_000);
    expect(result.crashes).toBeGreaterThan(50_000);
  });

  it('holds through two crashes and two kills of fewer records', () => {
    const result = search(new Model({ ...testBounds, commits: 2, crashes: 2, kills: 2 }));
    expect(result.broken).toBeUndefined();
    expect(result.states).toBeGreaterThan(20_000);
  });

  it('wraps', () => {
    const model = new Model({ ...testBounds, ringBlocks: 3, recordBlocks: 1, commits: 4, kills: 0 });
    const result = search(model);
    expect(result.broken).toBeUndefined();
    expect(result.states).toBeGreaterThan(10_000);
  });

  it.each(Object.entries(mutants))('%s is found: %s', (name) => {
    const { broken } = search(new Model({ ...testBounds, crashes: 2 }, name as Mutant));
    expect(broken?.what ?? 'it survived').toMatch(/record|cell|slots|tail|head/);
    expect(broken?.trace.length).toBeGreaterThan(2);
  });
});

describe('a place of the modelled storage', () => {
  it('keeps one of what was written since it was last durable, or what was', () => {
    const place = write(write([1], 2), 3);
    expect(outcomes(place)).toEqual([1, 2, 3]);
    expect(visible(place)).toBe(3);
  });

  it('is durable where a flush covered it, and not in what came later', () => {
    const place = write(cover(write([1], 2)), 3);
    expect(complete(place)).toEqual([2, 3, 0]);
    expect(outcomes(complete(place))).toEqual([2, 3]);
  });

  it('may for ever miss what a failed flush lost, until it is written again', () => {
    const failed = lose(cover(write([1], 2)));
    expect(visible(failed)).toBe(2);
    expect(outcomes(complete(cover(failed)))).toEqual([1, 2]);
    expect(complete(cover(write(failed, 2)))).toEqual([2]);
  });
});
