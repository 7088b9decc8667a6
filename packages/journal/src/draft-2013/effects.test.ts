import type { DraftTransaction } from '@qcow2/codec/journal/draft-2013';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { DraftEffects, ResolveBudget } from './effects.ts';

const place = { blockBytes: 512, ringBlocks: 100, blockIndex: 1, hostOffset: 4096 };

function copies(...chunks: readonly (readonly [to: number, from: number])[]): DraftTransaction {
  return {
    sequence: 1,
    data: new Uint8Array(0),
    descriptors: [
      {
        type: 'copy-data',
        chunks: chunks.map(([to, from]) => ({
          lengthBytes: 512,
          targetHostOffset: hostOffset(to * 512),
          sourceHostOffset: hostOffset(from * 512),
        })),
      },
    ],
  };
}

describe('the effects of a log', () => {
  it('are disturbed by what changes a source, and by nothing else', () => {
    const effects = new DraftEffects();
    effects.apply(copies([100, 1], [101, 7]), place);
    expect(effects.disturbs(copies([1, 50]))).toBe(true);
    expect(effects.disturbs(copies([7, 50]))).toBe(true);
    expect(effects.disturbs(copies([2, 50], [6, 50], [100, 50]))).toBe(false);
  });

  it('[JD13-DESC-012] are gathered within a budget that all of a recovery shares', () => {
    const budget = new ResolveBudget();
    budget.spend(2 ** 30, 0);
    const effects = new DraftEffects(budget);
    // Nothing is written, so nothing has to be looked through.
    effects.apply(copies([100, 1]), place);
    effects.writes.set(512, Uint8Array.of(1));
    const refused = expect.objectContaining({ code: 'LIMIT_EXCEEDED' });
    expect(() => effects.apply(copies([102, 1]), place)).toThrow(refused);
    expect(() => effects.revoke(0, 2 ** 40, 0)).toThrow(refused);
  });
});
