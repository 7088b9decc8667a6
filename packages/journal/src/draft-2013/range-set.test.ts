import fc from 'fast-check';
import { expect, it } from 'vitest';
import { RangeSet } from './range-set.ts';

it('a RangeSet knows the bytes that came in, and no others', () => {
  const range = fc.record({ offset: fc.nat(60), lengthBytes: fc.nat(12) });
  fc.assert(
    fc.property(fc.array(range, { maxLength: 20 }), range, (added, asked) => {
      const set = new RangeSet();
      const bytes = new Set<number>();
      for (const { offset, lengthBytes } of added) {
        set.add(offset, lengthBytes);
        for (let at = offset; at < offset + lengthBytes; at++) bytes.add(at);
      }
      const expected = [...bytes].some((at) => at >= asked.offset && at < asked.offset + asked.lengthBytes);
      expect(set.touches(asked.offset, asked.lengthBytes)).toBe(expected);
    }),
  );
});
