/** A memory device with pages of a few bytes against a plain array: every way for a range to lie across pages. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../src/index.ts';

const operation = fc.record({
  kind: fc.constantFrom('write', 'zero', 'resize', 'clone'),
  offset: fc.integer({ min: 0, max: 80 }),
  lengthBytes: fc.integer({ min: 1, max: 60 }),
});

describe('MemoryDevice', () => {
  it('is an array that can grow, and describes as data whatever is not zero', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 17 }),
        fc.array(operation, { maxLength: 30 }),
        (pageBytes, operations) => {
          let device = new MemoryDevice({ pageBytes });
          let model: number[] = [];
          for (const [i, { kind, offset, lengthBytes }] of operations.entries()) {
            const end = offset + lengthBytes;
            if (kind === 'clone') device = device.clone();
            if (kind === 'resize') {
              device.resize(offset);
              model = Array.from({ length: offset }, (_, at) => model[at] ?? 0);
            }
            if (kind === 'write') device.write(offset, new Uint8Array(lengthBytes).fill(i + 1));
            if (kind === 'zero') device.writeZeroes(offset, lengthBytes);
            if (kind === 'write' || kind === 'zero') {
              const value = kind === 'write' ? i + 1 : 0;
              model = Array.from({ length: Math.max(end, model.length) }, (_, at) =>
                at >= offset && at < end ? value : (model[at] ?? 0),
              );
            }
            expect([...device.snapshot()]).toEqual(model);
            const data = new Set<number>();
            let at = 0;
            for (const extent of device.extents(0, device.sizeBytes)) {
              expect(extent.offset).toBe(at);
              at += extent.lengthBytes;
              for (let byte = extent.offset; extent.kind === 'data' && byte < at; byte++) data.add(byte);
            }
            expect(at).toBe(model.length);
            expect(model.every((value, index) => value === 0 || data.has(index))).toBe(true);
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});
