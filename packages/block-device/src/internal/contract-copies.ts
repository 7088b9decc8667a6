/** The contract's copies: where a device's bytes stand below it, and bytes of another device that come without a way through the caller. */
import type { BlockDevice, ByteOrigin } from '../block-device.ts';
import { fails, filled, reads, type Suite } from './contract-checks.ts';

export function defineOrigins({ assert, sizeBytes, test }: Suite): void {
  test('tells where bytes stand below as they are, if it tells', async (device) => {
    if (device.origin === undefined) return;
    if (device.capabilities.write) await device.write(1000, filled(sizeBytes - 2000, 3));
    for (const [offset, length] of [
      [0, sizeBytes],
      [999, 70_000],
      [sizeBytes - 1, 1],
    ] as const) {
      const origin = await device.origin(offset, length);
      if (origin === undefined) continue;
      assert.ok(origin.lengthBytes > 0 && origin.lengthBytes <= length, `${origin.lengthBytes} of ${length}`);
      const below = new Uint8Array(origin.lengthBytes);
      await origin.device.read(origin.offset, below);
      await reads(assert, device, offset, below);
    }
    await fails(assert, async () => device.origin?.(sizeBytes, 1), ['OUT_OF_RANGE'], 'origin beyond the end');
  });
}

export function defineCopies({ assert, subject, sizeBytes, test }: Suite): void {
  test('copies from another device as much as it says, and nothing else', async (device) => {
    if (device.copyFrom === undefined) return;
    const other = await subject.create(sizeBytes);
    try {
      const content = Uint8Array.from({ length: sizeBytes }, (_, at) => 1 + ((at * 7 + (at >> 8)) % 255));
      await other.write(0, content);
      const half = 2 ** Math.floor(Math.log2(sizeBytes / 2));
      const model = filled(sizeBytes, 9);
      await device.write(0, model);
      for (const [from, to, length] of [
        [0, half, sizeBytes - half],
        [7, 1000, 5000],
        [half, 0, 0],
        [sizeBytes - 100, sizeBytes - 100, 100],
      ] as const) {
        const origin = await lowest({ device: other, offset: from, lengthBytes: length });
        const copied = await device.copyFrom(origin, to);
        assert.ok(copied >= 0 && copied <= origin.lengthBytes, `${copied} of ${origin.lengthBytes}`);
        model.set(content.subarray(from, from + copied), to);
        await reads(assert, device, 0, model);
      }
      const beyond = { device: other, offset: sizeBytes - 10, lengthBytes: 11 };
      await fails(assert, async () => device.copyFrom?.(beyond, 0), ['OUT_OF_RANGE'], 'beyond the source');
    } finally {
      await other.close();
      await subject.dispose?.(other);
    }
  });
}

/** What stands nowhere below is copied, or not, from the device itself. */
async function lowest(range: ByteOrigin): Promise<ByteOrigin> {
  const { device, offset, lengthBytes } = range;
  const below = lengthBytes === 0 ? undefined : await (device as BlockDevice).origin?.(offset, lengthBytes);
  return below === undefined ? range : await lowest(below);
}
