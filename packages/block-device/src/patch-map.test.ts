import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PatchMap } from './patch-map.ts';

describe('PatchMap', () => {
  it('gives back the newest bytes, in order, merged over piece borders', () => {
    const map = new PatchMap();
    map.set(508, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    map.set(510, Uint8Array.of(9));
    expect([...map.runs()]).toEqual([{ offset: 508, bytes: Uint8Array.of(1, 2, 9, 4, 5, 6, 7, 8) }]);
    expect(map.setBytes).toBe(8);
  });

  it('gives the runs within a range, cut to it, however long the range is beside the map', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ at: fc.nat(2000), bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }) }), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.nat(2200),
        fc.oneof(fc.nat(100), fc.nat(2200), fc.constant(2 ** 40)),
        (writes, offset, lengthBytes) => {
          const map = new PatchMap();
          for (const { at, bytes } of writes) map.set(at, bytes);
          const expected = [...map.runs()].flatMap((run) => {
            const from = Math.max(run.offset, offset);
            const to = Math.min(run.offset + run.bytes.length, offset + lengthBytes);
            return from < to
              ? [{ offset: from, bytes: run.bytes.slice(from - run.offset, to - run.offset) }]
              : [];
          });
          const found = [...map.runsWithin(offset, lengthBytes)].map((run) => ({
            offset: run.offset,
            bytes: run.bytes.slice(),
          }));
          expect(found).toEqual(expected);
        },
      ),
    );
  });

  it('agrees with a plain array of bytes under random set, delete and apply', () => {
    const step = fc.record({
      kind: fc.constantFrom('set', 'delete'),
      offset: fc.nat(3000),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 1200 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const map = new PatchMap();
        const model = new Map<number, number>();
        for (const { kind, offset, bytes } of steps) {
          if (kind === 'set') map.set(offset, bytes);
          else map.delete(offset, bytes.length);
          for (const [i, byte] of bytes.entries()) {
            if (kind === 'set') model.set(offset + i, byte);
            else model.delete(offset + i);
          }
        }
        const expected = new Uint8Array(4400).fill(0xaa);
        for (const [at, byte] of model) expected[at] = byte;
        const applied = new Uint8Array(4400).fill(0xaa);
        map.apply(0, applied);
        expect(applied).toEqual(expected);
        expect(map.setBytes).toBe(model.size);
        const fromRuns = new Uint8Array(4400).fill(0xaa);
        let last = -1;
        for (const { offset, bytes } of map.runs()) {
          expect(offset).toBeGreaterThan(last);
          fromRuns.set(bytes, offset);
          last = offset + bytes.length - 1;
        }
        expect(fromRuns).toEqual(expected);
      }),
    );
  });
});
