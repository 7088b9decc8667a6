/** What stands before what in records that do not take all that a commit has to log. */
import { MemoryDevice, run } from '@qcow2/block-device';
import { hostOffset } from '@qcow2/spec';
import { expect, it } from 'vitest';
import { inspectLog } from '../src/index.ts';
import { random } from './support/random.ts';
import { area, formatted, SectorGuest, sectorBytes } from './support/sector-guest.ts';

it('[JRN-DESC-030] no guest write stands before a change that was submitted before it', async () => {
  const rng = random(1);
  const memory = new MemoryDevice();
  await formatted(memory, rng);
  const guest = await SectorGuest.open(memory, rng);
  // Two that do not fit one record of this ring, and leave room in the first for a guest write.
  for (const [at, value] of [
    [4096, 1],
    [5000, 2],
  ] as const) {
    const bytes = new Uint8Array(9000).fill(value);
    guest.engine.submit({
      hostWrites: [{ hostOffset: hostOffset(at), bytes }],
      required: true,
      afterData: false,
    });
  }
  guest.write(3, new Uint8Array(sectorBytes).fill(7));
  await guest.flush();
  const kinds: Set<string>[] = [];
  await run(
    inspectLog(memory, area, {
      slots: () => undefined,
      record: ({ record }) => {
        kinds.push(new Set(record!.descriptors.map(({ type }) => type)));
      },
    }),
  );
  expect(kinds.length).toBeGreaterThan(1);
  const withGuestBytes = kinds.findIndex((types) => types.has('guest-write'));
  expect(withGuestBytes).toBe(kinds.length - 1);
});
