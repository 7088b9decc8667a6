/** What a log may not ask for, however right its checksums are: bytes far behind the file, and an area that is not there. */
import { MemoryDevice, run } from '@qcow2/block-device';
import { encodeDraftHeader, encodeDraftTransaction } from '@qcow2/codec/journal/draft-2013';
import type { JournalDescriptor } from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { inspectLog, readDraftArea, recoverDraftLog, recoverLog } from '../src/index.ts';
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

describe('a transaction of the draft that writes behind the end of the file', () => {
  const draftArea = { hostOffset: 65536, clusterBytes: 65536 } as const;
  const geometry = { blockBytes: 512, ringBlocks: 127 };

  function deviceWith(at: number): MemoryDevice {
    const device = new MemoryDevice({ sizeBytes: 2 * 65536 });
    const header = {
      journalLengthBytes: 65536,
      blockSizeOrder: 9,
      syncedIndex: 0,
      syncedSequence: 0,
      committedSequence: 1,
    };
    const transaction = {
      sequence: 1,
      descriptors: [
        {
          type: 'write-data',
          chunks: [{ lengthBytes: 8, hostOffset: hostOffset(at), journalBlockIndex: 2 }],
        },
      ],
      data: new Uint8Array(512),
    } as const;
    const bytes = encodeDraftTransaction(transaction, { ...geometry, blockIndex: 1 });
    device.write(draftArea.hostOffset, encodeDraftHeader(header));
    device.write(draftArea.hostOffset + 512, bytes);
    return device;
  }

  async function recovered(device: MemoryDevice) {
    return await run(
      (function* () {
        const area = yield* readDraftArea(device, draftArea.hostOffset, draftArea.clusterBytes);
        return yield* recoverDraftLog(device, area);
      })(),
    );
  }

  it('[JD13-DESC-015] is believed as far as the largest cluster reaches, and refused beyond it', async () => {
    const end = 2 * 65536 + largestCluster;
    expect((await recovered(deviceWith(end - 8))).transactions).toBe(1);
    await expect(recovered(deviceWith(end - 7))).rejects.toMatchObject({
      code: 'BAD_FIELD',
      context: { clause: 'JD13-DESC-015', value: end - 7 },
    });
  });
});
