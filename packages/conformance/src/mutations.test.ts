import { describe, expect, it } from 'vitest';
import { applyMutation, type Mutation, mutations, withMutation } from './mutations.ts';
import { loadVector } from './vector.ts';

const vector = loadVector('snapshot-several');
const all = mutations(vector, 7);

describe('mutations', () => {
  it('are the same for the same seed, and others for another', () => {
    expect(mutations(vector, 7)).toEqual(all);
    expect(mutations(vector, 8)).not.toEqual(all);
  });

  it('flip every bit of the header, and some of every kind of structure', () => {
    const header = all.filter((one) => one.kind === 'bit-flip' && one.name.startsWith('header'));
    expect(new Set(header.map((one) => one.name)).size).toBe(header.length);
    expect(header.length).toBeGreaterThanOrEqual(112 * 8);
    const kinds = new Set(all.filter((one) => one.kind === 'bit-flip').map((one) => one.name.split(':')[0]));
    expect([...kinds].sort()).toEqual([
      'header',
      'l1-table',
      'l2-table',
      'refcount-block',
      'refcount-table',
      'snapshot-table',
    ]);
  });

  it('cut at the borders of structures, and never to the whole length', () => {
    const sizes = all.flatMap((one) => (one.kind === 'truncation' ? [one.sizeBytes] : []));
    expect(sizes).toEqual([...new Set(sizes)].sort((a, b) => a - b));
    expect(sizes).toEqual(expect.arrayContaining([0, 1, 4095, 4096, 4097, 8192, vector.bytes.length - 1]));
    expect(sizes.at(-1)).toBeLessThan(vector.bytes.length);
  });

  it('are applied to a copy, or in place until the caller is done', () => {
    const flip: Mutation = { kind: 'bit-flip', name: '', offset: 4, bit: 7 };
    const cut: Mutation = { kind: 'truncation', name: '', sizeBytes: 3 };
    const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6);
    expect([...applyMutation(bytes, flip)]).toEqual([1, 2, 3, 4, 133, 6]);
    expect([...applyMutation(bytes, cut)]).toEqual([1, 2, 3]);
    expect(withMutation(bytes, flip, (damaged) => damaged[4])).toBe(133);
    expect(withMutation(bytes, cut, (damaged) => damaged.length)).toBe(3);
    const failing = () =>
      withMutation(bytes, flip, () => {
        throw new RangeError('of the reader');
      });
    expect(failing).toThrow('of the reader');
    expect([...bytes]).toEqual([1, 2, 3, 4, 5, 6]);
  });
});
