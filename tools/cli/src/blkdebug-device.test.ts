import { MemoryDevice } from '@qcow2/block-device';
import { createImage, openImage } from '@qcow2/driver';
import { expect, it } from 'vitest';
import { BlkdebugDevice } from './blkdebug-device.ts';
import { rulesOfConfig } from './blkdebug-rules.ts';

const sector = new Uint8Array(512);

/** An image that closes it leaves it open. */
class Kept extends BlkdebugDevice {
  override close(): void {}
}

function debugged(rules: string): BlkdebugDevice {
  return new BlkdebugDevice(new MemoryDevice({ sizeBytes: 65536 }), rulesOfConfig(rules), true);
}

it('an event puts its rule to work, for every request after it', () => {
  const device = debugged('[inject-error]\nevent = "read_aio"\nerrno = "5"');
  device.write(0, sector);
  expect(() => device.read(0, sector)).toThrow(
    expect.objectContaining({
      code: 'READ_FAILED',
      message: expect.stringMatching(/^read failed: i\/o error/),
    }),
  );
  expect(() => device.write(0, sector)).toThrow(expect.objectContaining({ code: 'WRITE_FAILED' }));
  expect(() => device.flush()).toThrow(expect.objectContaining({ code: 'FLUSH_FAILED' }));
  // Not of what a rule is about that does not say.
  expect(device.extents(0, 512)).toHaveLength(1);
});

it('once, one kind, one sector', () => {
  const device = debugged(
    '[inject-error]\nevent = "none"\niotype = "write"\nsector = "4"\nonce = "on"\nerrno = "28"\n' +
      '[inject-error]\nevent = "none"\niotype = "block-status"\n[inject-error]\nevent = "none"\niotype = "discard"\nsector = "1"',
  );
  device.read(2048, sector);
  device.write(1536, sector);
  device.writeZeroes(2048, 512);
  device.discard(1024, 4096);
  expect(() => device.write(0, new Uint8Array(4096))).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
  device.write(2048, sector);
  expect(() => device.extents(0, 512)).toThrow(expect.objectContaining({ code: 'READ_FAILED' }));
  expect(() => device.discard(0, 4096)).toThrow(expect.objectContaining({ code: 'WRITE_FAILED' }));
});

it('states lead from one event to the next', () => {
  const device = debugged(
    '[set-state]\nevent = "write_aio"\nstate = "1"\nnew_state = "2"\n' +
      '[set-state]\nevent = "flush_to_disk"\nstate = "2"\nnew_state = "3"\n' +
      '[inject-error]\nevent = "write_aio"\nstate = "3"\nonce = "on"',
  );
  for (const step of ['write', 'write', 'flush'] as const)
    step === 'flush' ? device.flush() : device.write(0, sector);
  expect(() => device.write(0, sector)).toThrow('write failed');
  device.write(0, sector);
});

it.each([
  ['l2_load', 'READ_FAILED'],
  ['l2_alloc_write', 'WRITE_FAILED'],
  ['refblock_update', 'WRITE_FAILED'],
  ['cow_write', 'WRITE_FAILED'],
  ['write_aio', 'WRITE_FAILED'],
  ['flush_to_disk', 'FLUSH_FAILED'],
])('the driver comes to %s', async (event, code) => {
  const memory = new MemoryDevice({ sizeBytes: 0 });
  await createImage(new Kept(memory, rulesOfConfig(''), false), { sizeBytes: 4 * 2 ** 20 });
  const before = await openImage(new Kept(memory, rulesOfConfig(''), false));
  await before.write(0, new Uint8Array(70_000).fill(1));
  await before.createSnapshot({ name: 'one' });
  await before.close();
  const rules = rulesOfConfig(`[inject-error]\nevent = "${event}"\n`);
  const image = await openImage(new BlkdebugDevice(memory, rules, false));
  const work = async (): Promise<void> => {
    await image.write(512, sector);
    await image.write(2 * 2 ** 20, sector);
    await image.flush();
    await image.close();
  };
  await expect(work()).rejects.toMatchObject({ code });
  image.abandon();
});
