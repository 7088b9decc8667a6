/** What a log may not ask for, however right its checksums are: bytes far behind the file, and an area that is not there. */
import { run } from '@qcow2/block-device';
import type { JournalDescriptor } from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { inspectLog, recoverLog } from '../src/index.ts';
import { area, LogBuilder } from './support/log-builder.ts';

const sink = { guestWrite: () => undefined, guestSettled: () => undefined };
const visitor = { slots: () => undefined, record: () => undefined };
const largestCluster = 2 << 20;

async function logWith(descriptor: JournalDescriptor, payload: readonly Uint8Array[] = []) {
  const log = await LogBuilder.make();
  log.append([descriptor], payload);
  return log.device;
}

describe('a record that writes behind the end of the file', () => {
  const end = area.hostOffset + area.lengthBytes + largestCluster;
  const inline = (at: number): JournalDescriptor => ({
    type: 'inline-write',
    hostOffset: hostOffset(at),
    bytes: new Uint8Array(8),
  });

  it('[JRN-DESC-029] is believed as far as the largest cluster reaches', async () => {
    const log = await run(recoverLog(await logWith(inline(end - 8)), area, sink));
    expect(log.records).toHaveLength(1);
  });

  it.each([
    ['inline', inline(end - 7), []],
    [
      'payload',
      { type: 'write-payload', hostOffset: hostOffset(2 ** 50), lengthBytes: 512, payloadOffset: 0 },
      [new Uint8Array(512)],
    ],
  ] as const)('[JRN-DESC-029] is refused beyond it: %s', async (_name, descriptor, payload) => {
    const device = await logWith(descriptor, payload);
    const refusal = { code: 'BAD_FIELD', context: { clause: 'JRN-DESC-029', field: 'hostOffset' } };
    await expect((async () => await run(recoverLog(device, area, sink)))()).rejects.toMatchObject(refusal);
    expect((await run(inspectLog(device, area, visitor))).error).toMatchObject(refusal);
  });
});

describe('a file that ends before the journal does', () => {
  it('[JRN-RECOV-017] is refused, and inspection says so', async () => {
    const { device } = await LogBuilder.make();
    device.resize(device.sizeBytes - 1);
    const refusal = { code: 'JOURNAL_DAMAGED', context: { clause: 'JRN-RECOV-017' } };
    await expect((async () => await run(recoverLog(device, area, sink)))()).rejects.toMatchObject(refusal);
    expect((await run(inspectLog(device, area, visitor))).error).toMatchObject(refusal);
  });
});
