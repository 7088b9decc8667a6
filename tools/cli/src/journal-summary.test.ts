import { MemoryDevice } from '@qcow2/block-device';
import { createImage, openImage } from '@qcow2/driver';
import { expect, it } from 'vitest';
import { journalSummary } from './journal-summary.ts';

it('says what the journal of an image did', async () => {
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes: 2 ** 20, journal: {} });
  const image = await openImage(device);
  for (let i = 0; i < 3; i++) {
    await image.write(i * 4096, new Uint8Array(4096).fill(i));
    await image.flush();
  }
  const text = journalSummary(image.journalStatus());
  expect(text).toContain('3 flushes asked for, 3 commits (by group size 1: 3)');
  expect(text).toContain("3 records of 24576 bytes, 12288 of them the guest's");
  image.abandon();
});

it('says nothing of an image without a journal, or one that is only read', async () => {
  expect(journalSummary(undefined)).toBeUndefined();
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes: 2 ** 20, journal: {} });
  const image = await openImage(device, { readOnly: true });
  expect(journalSummary(image.journalStatus())).toBeUndefined();
  image.abandon();
});
