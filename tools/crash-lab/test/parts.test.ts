/** The small parts: images of sectors, ids, workloads, mutations. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { SeededRandom } from '@qcow2/seeded';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DelayingDevice } from '../src/delaying-device.ts';
import { namedMutation } from '../src/mutation.ts';
import { SectorImage } from '../src/sector-image.ts';
import { formatStateId, parseStateId, type StateId } from '../src/state-id.ts';
import { contentOf, namedWorkload, randomWorkload, sequences } from '../src/workload.ts';

const geometry = { guestBytes: 16 * 1024, clusterBytes: 1024, letters: 'swxozdfuhgck' };

describe('an image of sectors', () => {
  it('holds what a plain array holds, and has one hash per content', () => {
    const step = fc.record({
      resize: fc.boolean(),
      at: fc.integer({ min: 0, max: 4000 }),
      lengthBytes: fc.integer({ min: 1, max: 1500 }),
      fill: fc.integer({ min: 0, max: 3 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const image = new SectorImage();
        let plain = new Uint8Array(0);
        for (const { resize, at, lengthBytes, fill } of steps) {
          const size = resize ? at : Math.max(plain.length, at + lengthBytes);
          const next = new Uint8Array(size);
          next.set(plain.subarray(0, size));
          if (resize) image.resize(at);
          else {
            image.write(at, new Uint8Array(lengthBytes).fill(fill));
            next.fill(fill, at, at + lengthBytes);
          }
          plain = next;
        }
        expect(image.toBytes()).toEqual(plain);
        const again = SectorImage.fromBytes(plain);
        expect(again.key()).toBe(image.key());
        expect(again.firstDifference(image)).toBeUndefined();
        again.write(plain.length, Uint8Array.of(7));
        expect(again.key()).not.toBe(image.key());
      }),
    );
  });

  it('does not change with its clone', () => {
    const image = SectorImage.fromBytes(new Uint8Array(1024).fill(1));
    const copy = image.clone();
    copy.write(100, Uint8Array.of(2));
    expect(image.toBytes().every((byte) => byte === 1)).toBe(true);
    expect(copy.firstDifference(image)).toBe(0);
  });
});

describe('the id of a state', () => {
  it('is read back as it was written', () => {
    const id: fc.Arbitrary<StateId> = fc.record({
      system: fc.constantFrom('journal', 'journal+backing+filled', 'ordered-512'),
      mutation: fc.constantFrom(undefined, 'swallow-flush_data', 'swallow-3'),
      workload: fc.constantFrom('swf', 'r7.12', 'c'),
      steps: fc.array(fc.record({ point: fc.nat(500), state: fc.bigInt({ min: 0n, max: 1n << 90n }) }), {
        minLength: 1,
        maxLength: 3,
      }),
    });
    fc.assert(
      fc.property(id, (one) => {
        expect(parseStateId(formatStateId(one))).toEqual(one);
      }),
    );
  });

  it('says where a process was killed, in its first step only', () => {
    const id: StateId = {
      system: 'journal',
      mutation: 'no-revoke',
      workload: 'g7.12',
      steps: [
        { point: 3, state: 'killed' },
        { point: 0, state: 71n },
      ],
    };
    expect(formatStateId(id)).toBe('journal!no-revoke/g7.12@3.K~0.1z');
    expect(parseStateId(formatStateId(id))).toEqual(id);
    const later = { ...id, later: { workload: 'of', steps: [{ point: 3, state: 2n }] } };
    expect(formatStateId(later)).toBe('journal!no-revoke/g7.12@3.K~0.1z:of@3.2');
    expect(parseStateId(formatStateId(later))).toEqual(later);
    expect(() => parseStateId('journal/x@1.2:of')).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    expect(() => parseStateId('journal/x@1.2~0.K')).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  it('is refused where it is malformed', () => {
    for (const text of ['', 'journal', 'journal/s@', 'journal/s@1', 'journal/s@1.2~', 'a b/s@1.2']) {
      expect(() => parseStateId(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });
});

describe('workloads', () => {
  it('are all sequences of the alphabet, each once', () => {
    const names = [...sequences(geometry, 3)].map(({ name }) => name);
    expect(names.length).toBe(12 ** 3);
    expect(new Set(names).size).toBe(12 ** 3);
  });

  it('come back from their names, random ones too', () => {
    expect(namedWorkload(geometry, 'r5.17')).toEqual(randomWorkload(geometry, 5, 17));
    expect(namedWorkload(geometry, 'swf').operations.map(({ kind }) => kind)).toEqual([
      'write',
      'write',
      'flush',
    ]);
    expect(() => namedWorkload(geometry, '%')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  it('stay within the guest and write something else each time', () => {
    for (let number = 0; number < 50; number++) {
      const { operations } = randomWorkload(geometry, 3, number);
      expect(operations.length).toBeGreaterThanOrEqual(30);
      for (const operation of operations) {
        if (!('offset' in operation)) continue;
        expect(operation.lengthBytes).toBeGreaterThan(0);
        expect(operation.offset + operation.lengthBytes).toBeLessThanOrEqual(geometry.guestBytes);
      }
    }
    const first = contentOf(1, 512, 1024);
    expect(first.subarray(0, 512)).not.toEqual(first.subarray(512));
    expect(first).not.toEqual(contentOf(2, 512, 1024));
    expect(contentOf(1, 700, 10)).toEqual(first.slice(188, 198));
  });
});

describe('a mutated device', () => {
  async function log() {
    const device = new RecordingDevice(new MemoryDevice());
    await device.write(0, Uint8Array.of(1), { event: 'write_data' });
    await device.flush({ event: 'flush_data' });
    await device.write(1, Uint8Array.of(1), { event: 'journal_append' });
    await device.flush({ event: 'journal_flush' });
    await device.write(2, Uint8Array.of(1), { event: 'journal_slot' });
    return device.log;
  }

  const kept = async (name: string) =>
    namedMutation(name)!
      .apply(await log())
      .map(({ event }) => event);

  it('swallows flushes by event or number, forgets writes, loses the barrier before a write', async () => {
    expect(await kept('swallow-flush_data')).not.toContain('flush_data');
    expect(await kept('swallow-1')).not.toContain('journal_flush');
    expect(await kept('drop-journal_append')).not.toContain('journal_append');
    expect(await kept('unordered-journal_slot')).toEqual([
      'write_data',
      'flush_data',
      'journal_append',
      'journal_slot',
    ]);
    expect(namedMutation('gone')).toBeUndefined();
  });
});

describe('a device that answers late', () => {
  it('does everything in the end, in an order of its own', async () => {
    const below = new RecordingDevice(new MemoryDevice());
    const device = new DelayingDevice(below, new SeededRandom(4));
    const bytes = Array.from({ length: 16 }, (_, index) => Uint8Array.of(index));
    await Promise.all(bytes.map((one, index) => device.write(index, one)));
    const into = new Uint8Array(16);
    await device.read(0, into);
    expect([...into]).toEqual(bytes.map(([value]) => value));
    const order = below.log.map((operation) => (operation.kind === 'write' ? operation.offset : -1));
    expect(order).not.toEqual([...order].sort((left, right) => left - right));
  });

  it('refuses a buffer that was changed while it was lent', async () => {
    const device = new DelayingDevice(new MemoryDevice(), new SeededRandom(4));
    const bytes = Uint8Array.of(1, 2, 3);
    const written = device.write(0, bytes);
    bytes[1] = 9;
    await expect(written).rejects.toMatchObject({ code: 'INVARIANT' });
  });
});
