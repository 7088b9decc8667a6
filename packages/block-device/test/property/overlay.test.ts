/**
 * Requests in batches, those of one batch under way together, on an overlay whose base answers in shuffled order.
 * Within a batch no two touch the same byte, so the result is that of any order: a plain array's.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FaultDevice, MemoryDevice, OverlayDevice, ShuffledScheduler } from '../../src/index.ts';

const sizeBytes = 400;
/** Requests as cuts of the device: between two cuts lies one request. */
const batch = fc.record({
  cuts: fc.uniqueArray(fc.integer({ min: 0, max: sizeBytes }), { minLength: 2, maxLength: 12 }),
  kinds: fc.array(fc.constantFrom('write', 'zero', 'read', 'nothing'), { minLength: 11, maxLength: 11 }),
});

describe('OverlayDevice', () => {
  it('loses nothing of requests that are under way together, whatever the order of its base', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        fc.integer({ min: 1, max: 64 }),
        fc.array(batch, { minLength: 1, maxLength: 6 }),
        async (seed, pageBytes, batches) => {
          const model = new Uint8Array(sizeBytes).map((_, i) => i % 7);
          const memory = MemoryDevice.fromBytes(model, { pageBytes });
          const base = new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(seed) });
          const overlay = new OverlayDevice(base, { pageBytes });
          let value = 10;
          for (const { cuts, kinds } of batches) {
            const sorted = cuts.toSorted((a, b) => a - b);
            const before = model.slice();
            const requests = sorted.slice(1).map(async (end, i) => {
              const offset = sorted[i] ?? 0;
              value++;
              if (kinds[i] === 'write') {
                const bytes = new Uint8Array(end - offset).fill(value % 256);
                model.set(bytes, offset);
                await overlay.write(offset, bytes);
              } else if (kinds[i] === 'zero') {
                model.fill(0, offset, end);
                await overlay.writeZeroes(offset, end - offset);
              } else if (kinds[i] === 'read') {
                const into = new Uint8Array(end - offset);
                await overlay.read(offset, into);
                expect(into).toEqual(before.slice(offset, end));
              }
            });
            await Promise.all(requests);
          }
          const all = new Uint8Array(sizeBytes);
          await overlay.read(0, all);
          expect(all).toEqual(model);
          expect(memory.snapshot()).toEqual(new Uint8Array(sizeBytes).map((_, i) => i % 7));
        },
      ),
      { numRuns: 200 },
    );
  });
});
