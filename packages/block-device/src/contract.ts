/**
 * The contract of `block-device.ts` as a test suite, for any device and any test runner: driven by a factory
 * and by what the device claims to be able to do.
 *
 *     import { assert, describe, it } from 'vitest'; // or node:test and node:assert/strict
 *     import { blockDeviceContract } from '@qcow2/block-device/contract';
 *
 *     blockDeviceContract({ describe, it, assert }, {
 *       name: 'MemoryDevice',
 *       create: (sizeBytes) => new MemoryDevice({ sizeBytes }),
 *       capabilities: { … },
 *     });
 *
 * It proves what can be seen through the interface. That a flush makes bytes durable can not: that is
 * for fault and crash tests.
 */
import type { BlockDevice, DeviceCapabilities } from './block-device.ts';
import { type Body, checkExtents, fails, filled, reads, type Suite } from './internal/contract-checks.ts';
import { defineCopies, defineOrigins } from './internal/contract-copies.ts';
import { compareWithModel } from './internal/contract-model.ts';
import {
  defineConcurrency,
  defineGrowth,
  defineNoResize,
  defineResize,
  defineWrites,
  defineZeroes,
} from './internal/contract-writes.ts';
import { isPromise } from './task.ts';

/** What of an assertion library is used; `node:assert/strict` and chai's `assert` both fit. */
export interface ContractAssert {
  ok(value: unknown, message?: string): void;
  deepEqual(actual: unknown, expected: unknown, message?: string): void;
}

export interface ContractRunner {
  describe(title: string, body: () => void): unknown;
  it(title: string, body: () => Promise<void>): unknown;
  readonly assert: ContractAssert;
}

export interface ContractSubject {
  /** Heads the suite's titles. */
  readonly name: string;
  /** A fresh device of this size that reads as zeros. */
  create(sizeBytes: number): BlockDevice | Promise<BlockDevice>;
  /** A fresh device with this content; where it is given, reading is also tested without writing. */
  createFrom?(bytes: Uint8Array): BlockDevice | Promise<BlockDevice>;
  /** Clean up after a test; the device is closed by then. */
  dispose?(device: BlockDevice): void | Promise<void>;
  /** What the device must claim, exactly. */
  readonly capabilities: DeviceCapabilities;
  /** All operations are done on return (`values`), or always later (`promises`); not checked if not given. */
  readonly returns?: 'values' | 'promises';
  /** Sizes that are asked for are multiples of this; 1 if not given. */
  readonly sizeMultipleBytes?: number;
  /** Size of the devices made, rounded up to the multiple; at least 64 KiB; 256 KiB + 77 if not given. */
  readonly sizeBytes?: number;
  /** Seeds of the random runs; 1, 2, 3 and a new one each time if not given. */
  readonly seeds?: readonly number[];
  /** Operations in each random run; 300 if not given. */
  readonly operations?: number;
}

/** Define the suite's tests. */
export function blockDeviceContract(runner: ContractRunner, subject: ContractSubject): void {
  const { capabilities, sizeMultipleBytes = 1 } = subject;
  const suite: Suite = {
    assert: runner.assert,
    subject,
    capabilities,
    sizeBytes: Math.ceil((subject.sizeBytes ?? 256 * 1024 + 77) / sizeMultipleBytes) * sizeMultipleBytes,
    test: (title, body) => {
      runner.it(title, async () => {
        await withDevice(subject, await subject.create(suite.sizeBytes), body);
      });
    },
  };
  runner.describe(`${subject.name}: block device contract`, () => {
    defineGeneral(suite);
    defineBounds(suite);
    defineOrigins(suite);
    if (subject.createFrom !== undefined) defineContent(suite, runner);
    if (!capabilities.write) {
      defineReadOnly(suite);
      return;
    }
    defineWrites(suite);
    defineZeroes(suite);
    defineConcurrency(suite);
    defineCopies(suite);
    if (capabilities.growable) defineGrowth(suite);
    if (capabilities.resize) defineResize(suite);
    else defineNoResize(suite);
    defineRandom(suite);
  });
}

async function withDevice(subject: ContractSubject, device: BlockDevice, body: Body): Promise<void> {
  try {
    await body(device);
  } finally {
    await device.close();
    await subject.dispose?.(device);
  }
}

function defineGeneral({ assert, subject, capabilities, sizeBytes, test }: Suite): void {
  test('claims what its manifest says', async (device) => {
    assert.deepEqual({ ...device.capabilities }, { ...capabilities });
    assert.ok(device.sizeBytes === sizeBytes, `size ${device.sizeBytes}, not ${sizeBytes}`);
  });

  test('reads as zeros at first, and fills the buffer that it was given', async (device) => {
    const into = new Uint8Array(sizeBytes).fill(1);
    await device.read(0, into);
    assert.ok(into.every((byte) => byte === 0));
  });

  test('touches nothing of a buffer but the part lent to it', async (device) => {
    const buffer = new Uint8Array(1200).fill(7);
    await device.read(3, buffer.subarray(100, 1100));
    assert.deepEqual([...buffer], [...filled(100, 7), ...filled(1000, 0), ...filled(100, 7)]);
  });

  test('describes its extents in order, without gaps, merged', async (device) => {
    await checkExtents(device, assert, 0, sizeBytes, 'at first');
    await checkExtents(device, assert, 1, sizeBytes - 2, 'at first, inside');
    assert.deepEqual(await device.extents(5, 0), []);
  });

  test('answers as its manifest says: at once, or with promises', async (device) => {
    if (subject.returns === undefined) return;
    const expected = subject.returns === 'promises';
    const writes = capabilities.write
      ? [
          device.write(0, filled(10, 1)),
          device.writeZeroes(0, 10),
          device.discard(0, 10),
          device.write(0, filled(1, 1), { fua: true }),
        ]
      : [];
    const answers = [...writes, device.read(0, new Uint8Array(10)), device.extents(0, 10), device.flush()];
    await Promise.all(answers);
    for (const [i, answer] of answers.entries())
      assert.ok(isPromise<unknown>(answer) === expected, `answer ${i}`);
  });

  test('can be closed again, and serves nothing after', async (device) => {
    await device.close();
    await device.close();
    const requests: (() => unknown)[] = [
      () => device.read(0, new Uint8Array(1)),
      () => device.write(0, filled(1, 1)),
      () => device.writeZeroes(0, 1),
      () => device.discard(0, 1),
      () => device.extents(0, 1),
      () => device.flush(),
      () => device.resize(0),
    ];
    for (const [i, request] of requests.entries()) await fails(assert, request, ['CLOSED'], `request ${i}`);
    assert.ok(device.sizeBytes === sizeBytes);
  });
}

function defineBounds({ assert, capabilities, sizeBytes, test }: Suite): void {
  test('refuses requests that are not byte ranges', async (device) => {
    for (const bad of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      await fails(assert, () => device.read(bad, new Uint8Array(1)), ['INVALID_ARGUMENT'], `read at ${bad}`);
      await fails(assert, () => device.extents(bad, 1), ['INVALID_ARGUMENT'], `extents at ${bad}`);
      await fails(assert, () => device.extents(0, bad), ['INVALID_ARGUMENT'], `extents of ${bad}`);
      if (!capabilities.write) continue;
      await fails(assert, () => device.write(bad, filled(1, 1)), ['INVALID_ARGUMENT'], `write at ${bad}`);
      await fails(assert, () => device.writeZeroes(bad, 1), ['INVALID_ARGUMENT'], `write zeroes at ${bad}`);
      await fails(assert, () => device.writeZeroes(0, bad), ['INVALID_ARGUMENT'], `write zeroes of ${bad}`);
      await fails(assert, () => device.discard(0, bad), ['INVALID_ARGUMENT'], `discard of ${bad}`);
      if (capabilities.resize)
        await fails(assert, () => device.resize(bad), ['INVALID_ARGUMENT'], `resize to ${bad}`);
    }
    assert.ok(device.sizeBytes === sizeBytes);
  });

  test('refuses to reach beyond the end, and does nothing of such a request', async (device) => {
    const beyond = [
      [sizeBytes - 5, 6],
      [sizeBytes, 1],
      [sizeBytes + 1, 0],
      [Number.MAX_SAFE_INTEGER, 100],
    ] as const;
    for (const [offset, lengthBytes] of beyond) {
      const here = `${lengthBytes} bytes at ${offset}`;
      await fails(
        assert,
        () => device.read(offset, new Uint8Array(lengthBytes)),
        ['OUT_OF_RANGE'],
        `read ${here}`,
      );
      await fails(assert, () => device.extents(offset, lengthBytes), ['OUT_OF_RANGE'], `extents ${here}`);
      if (!capabilities.write) continue;
      await fails(assert, () => device.discard(offset, lengthBytes), ['OUT_OF_RANGE'], `discard ${here}`);
      if (capabilities.growable && offset < Number.MAX_SAFE_INTEGER) continue;
      await fails(
        assert,
        () => device.write(offset, filled(lengthBytes, 9)),
        ['OUT_OF_RANGE'],
        `write ${here}`,
      );
      await fails(
        assert,
        () => device.writeZeroes(offset, lengthBytes),
        ['OUT_OF_RANGE'],
        `write zeroes ${here}`,
      );
    }
    await reads(assert, device, 0, filled(sizeBytes, 0));
    assert.ok(device.sizeBytes === sizeBytes);
  });

  test('takes requests of no bytes, also at its very end', async (device) => {
    await device.read(sizeBytes, new Uint8Array(0));
    assert.deepEqual(await device.extents(sizeBytes, 0), []);
    if (!capabilities.write) return;
    await device.write(sizeBytes, new Uint8Array(0));
    await device.writeZeroes(sizeBytes, 0);
    await device.discard(sizeBytes, 0);
    assert.ok(device.sizeBytes === sizeBytes);
  });
}

function defineContent({ assert, subject, sizeBytes }: Suite, runner: ContractRunner): void {
  runner.it('reads the content that it was made with', async () => {
    const content = new Uint8Array(sizeBytes).map((_, i) => i % 251);
    const device = await subject.createFrom?.(content.slice());
    if (device === undefined) return assert.ok(false, 'no device');
    await withDevice(subject, device, async () => {
      await reads(assert, device, 0, content);
      await reads(assert, device, 511, content.subarray(511, 4099));
      await reads(assert, device, sizeBytes - 1, content.subarray(sizeBytes - 1));
      await checkExtents(device, assert, 0, sizeBytes, 'with content');
    });
  });
}

function defineReadOnly({ assert, sizeBytes, test }: Suite): void {
  test('refuses every change, and flushes without complaint', async (device) => {
    await fails(assert, () => device.write(0, filled(1, 1)), ['READ_ONLY'], 'write');
    await fails(assert, () => device.writeZeroes(0, 1), ['READ_ONLY'], 'write zeroes');
    await fails(assert, () => device.discard(0, 1), ['READ_ONLY'], 'discard');
    await fails(assert, () => device.resize(0), ['READ_ONLY', 'UNSUPPORTED_OPERATION'], 'resize');
    await device.flush();
    await reads(assert, device, 0, filled(sizeBytes, 0));
  });
}

function defineRandom({ assert, subject, test }: Suite): void {
  const { operations = 300, sizeMultipleBytes = 1 } = subject;
  const seeds = subject.seeds ?? [1, 2, 3, Math.floor(Math.random() * 2 ** 32)];
  for (const [i, seed] of seeds.entries()) {
    test(`does what a model does, under random operations (run ${i + 1})`, (device) =>
      compareWithModel(device, assert, { seed, operations, sizeMultipleBytes }));
  }
}
