/** The guards themselves: each must find what it is there for, or the fuzzer proves nothing. */
import { FormatError, InvariantError, StateError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { Fuzzer } from '../src/fuzzer.ts';
import { GuardedDevice } from '../src/guarded-device.ts';
import { type Target, Verdict } from '../src/target.ts';

/** A target that does what a test wants to be found. */
function planted(run: Target['run'], mutate: Target['mutate'] = () => undefined): Target {
  return {
    name: 'planted',
    bases: ['base'],
    limits: { oneBytes: 65536, allBytes: 1 << 20 },
    prepare: async () => undefined,
    load: () => undefined,
    mutate,
    seal: () => undefined,
    run,
  };
}

async function findingsOf(run: Target['run']): Promise<readonly string[]> {
  const fuzzer = new Fuzzer(planted(run), { seed: 1, corpus: [] });
  await fuzzer.run(1);
  return fuzzer.findings.map(({ text }) => text);
}

describe('the fuzzer finds', () => {
  it('an error that is none of ours', async () => {
    const found = await findingsOf((_variant, verdict) => {
      verdict.attempt('decode', () => new DataView(new ArrayBuffer(4)).getUint32(1));
    });
    expect(found).toEqual([expect.stringContaining('RangeError')]);
  });

  it('a broken invariant, and what a storage error hides', async () => {
    const found = await findingsOf((_variant, verdict) => {
      verdict.error('write', new InvariantError('planted'));
      verdict.error('write', new StateError('OUT_OF_RANGE', 'planted', {}, new TypeError('below')));
    });
    expect(found).toEqual([
      expect.stringContaining('INVARIANT'),
      expect.stringContaining('TypeError: below'),
    ]);
  });

  it('an error of format that names no clause', async () => {
    const found = await findingsOf((_variant, verdict) => {
      verdict.error('open', new FormatError('BAD_FIELD', 'planted', { clause: 'HDR-001' }));
      verdict.error('open', new FormatError('BAD_FIELD', 'planted'));
    });
    expect(found).toEqual([expect.stringContaining('names no clause')]);
  });

  it.each<[string, () => unknown]>([
    ['one large buffer', () => new Uint8Array(65537)],
    ['many small ones', () => Array.from({ length: 40 }, () => new ArrayBuffer(32768))],
  ])('%s', async (_name, allocate) => {
    const found = await findingsOf((_variant, verdict) => {
      verdict.attempt('allocate', allocate);
    });
    expect(found).toEqual([expect.stringContaining('too much memory')]);
  });

  it('leaves the constructors as they were', async () => {
    const before = [globalThis.Uint8Array, globalThis.ArrayBuffer];
    await findingsOf(() => undefined);
    expect([globalThis.Uint8Array, globalThis.ArrayBuffer]).toEqual(before);
  });
});

describe('the guarded device', () => {
  const base = new Uint8Array(5000).fill(7);
  const budget = { operations: 10, bytes: 1 << 20 };

  it('is as it was after a reset', () => {
    const device = new GuardedDevice(base, budget);
    device.touch(100, 10);
    device.bytes.fill(1, 100, 110);
    device.write(4990, new Uint8Array(2000).fill(2));
    device.write(2 ** 50, new Uint8Array(8).fill(3));
    device.cut(50);
    device.reset();
    const bytes = new Uint8Array(5000);
    device.read(0, bytes);
    expect(device.sizeBytes).toBe(5000);
    expect(bytes).toEqual(base);
  });

  it('reads what was written far behind its end, and zeros between', () => {
    const device = new GuardedDevice(base, budget);
    device.write(2 ** 50 + 1020, new Uint8Array(8).fill(3));
    const bytes = new Uint8Array(12);
    device.read(2 ** 50 + 1016, bytes);
    expect([...bytes]).toEqual([0, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3]);
  });

  it('tells of a write to what is read-only, of one that the guard forbids, and of a used up budget', () => {
    const device = new GuardedDevice(base, budget);
    device.readOnly = true;
    device.write(0, new Uint8Array(1));
    expect(device.violation).toContain('read-only');
    device.rearm();
    device.guard = (offset) => (offset < 512 ? 'the header' : undefined);
    device.write(512, new Uint8Array(1));
    expect(device.violation).toBeUndefined();
    device.write(511, new Uint8Array(1), { event: 'write_data' });
    expect(device.violation).toContain('the header');
    expect(() => {
      for (;;) device.flush();
    }).toThrow(expect.objectContaining({ code: 'ABORTED' }));
    expect(device.overBudget).toBe(true);
  });
});

describe('a verdict', () => {
  it('tells answers apart by code, clause and field', () => {
    const one = new Verdict();
    one.error('open', new FormatError('BAD_FIELD', 'a', { clause: 'HDR-001', field: 'version' }));
    const other = new Verdict();
    other.error('open', new FormatError('BAD_FIELD', 'b', { clause: 'HDR-002', field: 'version' }));
    expect(one.signature).not.toBe(other.signature);
    expect(one.findings).toEqual([]);
  });
});
