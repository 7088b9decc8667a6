/** Clauses about what the driver puts into the journal, held against the log of the device. */
import {
  MemoryDevice,
  type RecordedOperation,
  type RecordedWrite,
  RecordingDevice,
} from '@qcow2/block-device';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../../src/index.ts';
import { appendedRecords, appendRecord } from '../support/journal-records.ts';
import { random } from '../support/random.ts';

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;

/** Whether a flush that began when `write` was done had completed before `time`. */
function isDurable(log: readonly RecordedOperation[], write: RecordedWrite, time: number): boolean {
  return log.some(
    ({ kind, startedAt, completedAt }) =>
      kind === 'flush' && startedAt > write.completedAt! && completedAt! < time,
  );
}

describe('what the driver logs', () => {
  it('[JRN-COMMIT-004] leads to, and changes, only tables that are durable as a whole', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: 32 << 20, clusterBytes: 512, journal });
    const device = new RecordingDevice(memory);
    const image = await openImage(device);
    const rng = random(3);
    for (let i = 0; i < 400; i++) {
      const length = 512 * (1 + rng.below(8));
      await image.write(rng.below(65000) * 512, new Uint8Array(length).fill(i));
      if (i % 3 === 0) await image.flush();
      if (i === 200) await image.grow(96 << 20);
    }
    await image.flush();
    const made = ['l2_alloc_write', 'refblock_alloc_write', 'reftable_grow', 'l1_grow_write_table'];
    const tables = device.log.filter(
      (operation): operation is RecordedWrite =>
        operation.kind === 'write' && made.includes(operation.event ?? ''),
    );
    expect(new Set(tables.map(({ event }) => event)).size).toBeGreaterThan(2);
    const byOffset = new Map(tables.map((table) => [table.offset, table]));
    let looked = 0;
    for (const { record, time } of appendedRecords(device.log)) {
      for (const descriptor of record.descriptors) {
        if (descriptor.type !== 'inline-write') continue;
        const { hostOffset: at, bytes } = descriptor;
        const changed = [...byOffset.values()].filter(
          ({ offset, bytes: content }) => offset < at + bytes.length && at < offset + content.length,
        );
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        for (let i = 0; i + 8 <= bytes.length; i++) {
          const target = byOffset.get(Number(view.getBigUint64(i) & 0x00ffffffffffffffn));
          if (target !== undefined && (at + i) % 8 === 0) changed.push(target);
        }
        for (const table of changed) {
          if (table.startedAt > time) continue;
          looked++;
          expect(isDurable(device.log, table, time), `record ${record.sequence}, table ${table.offset}`).toBe(
            true,
          );
        }
      }
    }
    expect(looked).toBeGreaterThan(100);
  });

  it.each([
    ['an encrypted image without a secret', 32, Uint8Array.of(0, 0, 0, 1), 'NO_SECRET'],
    ['an image whose data file nobody names', 72, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 4), 'NO_POLICY'],
  ])(
    '[JRN-COMMIT-012, JRN-COMMIT-013] of %s is nothing: it is not opened for writing',
    async (_, at, bytes, code) => {
      const memory = new MemoryDevice();
      await createImage(memory, { sizeBytes: 1 << 20, clusterBytes: 4096, journal });
      memory.write(at, bytes);
      const device = new RecordingDevice(memory);
      await expect(openImage(device)).rejects.toMatchObject({ code });
      expect(device.log).toEqual([]);
    },
  );

  it('[JRN-DESC-014] is refused where it would clear the dirty bit itself', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: 1 << 20, clusterBytes: 4096, journal });
    const image = await openImage(memory);
    await image.write(0, new Uint8Array(512).fill(1));
    await image.flush();
    const area = image.journalStatus()!;
    image.abandon();
    await appendRecord(memory, area, [
      { type: 'inline-write', hostOffset: hostOffset(72), bytes: new Uint8Array(8) },
    ]);
    for (const readOnly of [true, false]) {
      await expect(openImage(memory.clone(), { readOnly })).rejects.toMatchObject({
        context: { clause: 'JRN-DESC-014' },
      });
    }
  });
});
