import { bitLayouts, defineBits, InvariantError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { bitMask, reservedMask, wordMask } from './bit-masks.ts';

const sample = defineBits({
  name: 'sample',
  document: 'qcow2',
  clause: 'TST-001',
  widthBits: 64,
  bits: [
    { name: 'low', bit: 0, width: 4, clause: 'TST-001', reserved: 'must-be-zero' },
    { name: 'middle', bit: 4, width: 40, clause: 'TST-001' },
    { name: 'high', bit: 44, width: 20, clause: 'TST-001', reserved: 'ignored' },
  ],
});

describe('masks out of bit layouts', () => {
  it('of named fields, of reserved ones, and as words', () => {
    expect(bitMask(sample, 'low')).toBe(0xfn);
    expect(bitMask(sample, 'low', 'high')).toBe(0xffff_f000_0000_000fn);
    expect(reservedMask(sample)).toBe(0xfn);
    expect(reservedMask(sample, 'ignored')).toBe(0xffff_f000_0000_0000n);
    expect(wordMask(bitMask(sample, 'middle'))).toEqual({ high: 0xfff, low: 0xfffffff0 });
    expect(() => bitMask(sample, 'nothing')).toThrow(InvariantError);
  });

  it('cover every bit of every layout once', () => {
    for (const layout of Object.values(bitLayouts)) {
      const masks = layout.bits.map(({ name }) => bitMask(layout, name));
      const sum = masks.reduce((total, mask) => total + mask, 0n);
      expect(sum, layout.name).toBe((1n << BigInt(layout.widthBits)) - 1n);
    }
  });
});
