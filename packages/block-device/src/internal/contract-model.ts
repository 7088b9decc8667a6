/**
 * The model that a device is compared with, and random operations on both.
 *
 * The model holds, for each byte, what it must read as, and whether a zero is just as good (after a discard).
 */
import type { BlockDevice } from '../block-device.ts';
import type { ContractAssert } from '../contract.ts';
import { checkExtents } from './contract-checks.ts';
import { Random } from './random.ts';

export class DeviceModel {
  bytes: Uint8Array<ArrayBuffer>;
  #orZero: Uint8Array<ArrayBuffer>;

  constructor(sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
    this.#orZero = new Uint8Array(sizeBytes);
  }

  resize(sizeBytes: number): void {
    this.bytes = resized(this.bytes, sizeBytes);
    this.#orZero = resized(this.#orZero, sizeBytes);
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.bytes.length) this.resize(offset + bytes.length);
    this.bytes.set(bytes, offset);
    this.#orZero.fill(0, offset, offset + bytes.length);
  }

  discard(offset: number, lengthBytes: number): void {
    this.#orZero.fill(1, offset, offset + lengthBytes);
  }

  /** Index of the first byte of `actual` that may not stand at `offset`, or -1. Zeros seen after a discard stay. */
  mismatch(offset: number, actual: Uint8Array): number {
    for (let i = 0; i < actual.length; i++) {
      const at = offset + i;
      if (actual[i] === this.bytes[at]) continue;
      if (actual[i] !== 0 || this.#orZero[at] !== 1) return i;
    }
    return -1;
  }
}

function resized(old: Uint8Array, sizeBytes: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(sizeBytes);
  all.set(old.subarray(0, Math.min(old.length, sizeBytes)));
  return all;
}

export interface RandomRun {
  readonly seed: number;
  readonly operations: number;
  /** Sizes are multiples of this. */
  readonly sizeMultipleBytes: number;
}

/** Random operations on the device and the model, then a comparison of every byte. */
export async function compareWithModel(
  device: BlockDevice,
  assert: ContractAssert,
  run: RandomRun,
): Promise<void> {
  const random = new Random(run.seed);
  const model = new DeviceModel(device.sizeBytes);
  const { capabilities } = device;
  const most = device.sizeBytes * 2;
  let here = '';
  const pick = (limitBytes: number) => {
    // Half of the requests lie on sector boundaries, half anywhere; short ones are more frequent.
    const unit = random.oneIn(2) ? 512 : 1;
    const offset = Math.floor(random.below(limitBytes + 1) / unit) * unit;
    const lengthBytes = Math.min(limitBytes - offset, random.below(random.oneIn(8) ? 200_000 : 5_000));
    return { offset, lengthBytes };
  };
  const check = async (offset: number, lengthBytes: number) => {
    const into = new Uint8Array(lengthBytes);
    await device.read(offset, into);
    const wrong = model.mismatch(offset, into);
    assert.ok(
      wrong < 0,
      `${here}: byte ${offset + wrong} reads as ${into[wrong]}, not ${model.bytes[offset + wrong]}`,
    );
  };
  const steps: (() => Promise<void>)[] = [
    async () => {
      const { offset, lengthBytes } = pick(model.bytes.length);
      await check(offset, lengthBytes);
    },
    async () => {
      const { offset, lengthBytes } = pick(capabilities.growable ? most : model.bytes.length);
      if (lengthBytes === 0) return;
      const bytes = random.bytes(lengthBytes);
      await device.write(offset, bytes, { fua: random.oneIn(10) });
      model.write(offset, bytes);
    },
    async () => {
      const { offset, lengthBytes } = pick(capabilities.growable ? most : model.bytes.length);
      if (lengthBytes === 0) return;
      await device.writeZeroes(offset, lengthBytes, { mayUnmap: random.oneIn(2), fua: random.oneIn(10) });
      model.write(offset, new Uint8Array(lengthBytes));
    },
    async () => {
      const { offset, lengthBytes } = pick(model.bytes.length);
      await device.discard(offset, lengthBytes);
      model.discard(offset, lengthBytes);
    },
    async () => {
      await device.flush();
    },
    async () => {
      const { offset, lengthBytes } = pick(model.bytes.length);
      await checkExtents(device, assert, offset, lengthBytes, here);
    },
    async () => {
      if (!capabilities.resize || !random.oneIn(5)) return;
      const sizeBytes = Math.floor(random.below(most) / run.sizeMultipleBytes) * run.sizeMultipleBytes;
      await device.resize(sizeBytes);
      model.resize(sizeBytes);
    },
  ];
  for (let i = 0; i < run.operations; i++) {
    here = `seed ${run.seed}, operation ${i}`;
    // Writes twice as often as each of the others: a device that is mostly zeros proves little.
    await steps[random.oneIn(4) ? 1 : random.below(steps.length)]?.();
    assert.ok(
      device.sizeBytes === model.bytes.length,
      `${here}: size ${device.sizeBytes}, not ${model.bytes.length}`,
    );
  }
  here = `seed ${run.seed}, at the end`;
  await check(0, model.bytes.length);
  await checkExtents(device, assert, 0, model.bytes.length, here);
}
