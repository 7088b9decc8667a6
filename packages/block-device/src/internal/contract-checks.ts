/** What the tests of the contract have in common: their setting, and checks that say what was found. */
import { type ErrorCode, Qcow2Error } from '@qcow2/spec';
import type { BlockDevice, DeviceCapabilities, Extent } from '../block-device.ts';
import type { ContractAssert, ContractSubject } from '../contract.ts';

export type Body = (device: BlockDevice) => Promise<void>;
export interface Suite {
  readonly assert: ContractAssert;
  readonly subject: ContractSubject;
  readonly capabilities: DeviceCapabilities;
  readonly sizeBytes: number;
  /** Define a test with a device of its own. */
  test(title: string, body: Body): void;
}

export const filled = (lengthBytes: number, value: number) => new Uint8Array(lengthBytes).fill(value);

/** These bytes stand at this offset. */
export async function reads(
  assert: ContractAssert,
  device: BlockDevice,
  offset: number,
  expected: Uint8Array,
): Promise<void> {
  const into = new Uint8Array(expected.length).fill(0xa5);
  await device.read(offset, into);
  const wrong = into.findIndex((byte, i) => byte !== expected[i]);
  assert.ok(wrong < 0, `byte ${offset + wrong} reads as ${into[wrong]}, not ${expected[wrong]}`);
}

/** The request throws or rejects, with an error of this project and one of these codes. */
export async function fails(
  assert: ContractAssert,
  request: () => unknown,
  codes: readonly ErrorCode[],
  here: string,
): Promise<void> {
  let failure: unknown;
  try {
    await request();
  } catch (error) {
    failure = error;
  }
  const found = failure instanceof Qcow2Error ? failure.code : String(failure);
  assert.ok(
    codes.some((code) => code === found),
    `${here}: ${codes.join(' or ')} was expected, not ${found}`,
  );
}

/** All extents of the range, asked for until it is covered, each answer checked: order, gaps, merging, zeros. */
export async function checkExtents(
  device: BlockDevice,
  assert: ContractAssert,
  offset: number,
  lengthBytes: number,
  here: string,
): Promise<readonly Extent[]> {
  const all: Extent[] = [];
  const end = offset + lengthBytes;
  let at = offset;
  while (at < end) {
    const answer = await device.extents(at, end - at);
    assert.ok(answer.length > 0, `${here}: no extent at ${at}`);
    for (const [i, extent] of answer.entries()) {
      assert.ok(extent.offset === at, `${here}: an extent starts at ${extent.offset}, not at ${at}`);
      assert.ok(
        extent.lengthBytes > 0 && at + extent.lengthBytes <= end,
        `${here}: the extent at ${at} has ${extent.lengthBytes} bytes`,
      );
      assert.ok(
        extent.kind !== answer[i - 1]?.kind,
        `${here}: two extents of kind ${extent.kind} meet at ${at}`,
      );
      if (extent.kind !== 'data') {
        const into = new Uint8Array(extent.lengthBytes).fill(1);
        await device.read(at, into);
        assert.ok(
          into.every((byte) => byte === 0),
          `${here}: the ${extent.kind} extent at ${at} does not read as zeros`,
        );
      }
      at += extent.lengthBytes;
      all.push(extent);
    }
  }
  return all;
}
