/** Which images are of the profile draft-2013, which only look like it, and what a log of theirs must not ask for. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import {
  type DraftDescriptor,
  encodeDraftHeader,
  encodeDraftTransaction,
} from '@qcow2/codec/journal/draft-2013';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const clusterBytes = 4096;
const sound = { corruptions: 0, leaks: 0, checkErrors: 0 };

async function made(): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  const journal = { profile: 'draft-2013', sizeBytes: 65536 } as const;
  await createImage(device, { sizeBytes: 1 << 20, clusterBytes, journal });
  return device;
}

function headerOf(device: MemoryDevice): DataView {
  return new DataView(device.snapshot().buffer);
}

function put64(device: MemoryDevice, at: number, value: bigint): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  device.write(at, bytes);
}

const journalAt = (device: MemoryDevice): number => Number(headerOf(device).getBigUint64(104));

/** The image dirty, as the draft's own programs leave it, with one committed transaction of these descriptors. */
async function dirty(descriptors: DraftDescriptor[], data = new Uint8Array(512)): Promise<MemoryDevice> {
  const device = await made();
  const at = journalAt(device);
  const place = { blockBytes: 512, ringBlocks: 127, blockIndex: 1 };
  device.write(at + 512, encodeDraftTransaction({ sequence: 8, descriptors, data }, place));
  const header = {
    journalLengthBytes: 65536,
    blockSizeOrder: 9,
    syncedIndex: 0,
    syncedSequence: 7,
    committedSequence: 8,
  };
  device.write(at, encodeDraftHeader(header));
  put64(device, 72, 4n);
  put64(device, 88, 1n);
  return device;
}

const writeTo = (at: number, lengthBytes = 8): DraftDescriptor => ({
  type: 'write-data',
  chunks: [{ lengthBytes, hostOffset: hostOffset(at), journalBlockIndex: 2 }],
});

describe('the binding of the draft', () => {
  it('[JD13-BIND-006] is bit 63 in a clean image, and bits 2, 0 and 63 in a dirty one', async () => {
    const device = await made();
    expect(headerOf(device).getBigUint64(88)).toBe(1n << 63n);
    const image = await openImage(device);
    await image.write(0, new Uint8Array(512).fill(1));
    await image.flush();
    expect(headerOf(device).getBigUint64(72)).toBe(4n);
    expect(headerOf(device).getBigUint64(88)).toBe((1n << 63n) | 1n);
    await image.quiesce();
    expect(headerOf(device).getBigUint64(72)).toBe(0n);
    expect(headerOf(device).getBigUint64(88)).toBe(1n << 63n);
  });

  it("[JD13-BIND-004] is not where no journal header stands: the bits have today's meaning", async () => {
    const device = await made();
    put64(device, 72, 4n);
    put64(device, 88, 0n);
    await expect(openImage(device)).rejects.toMatchObject({
      code: 'NO_POLICY',
      context: { clause: 'DAT-001' },
    });
    const zstd = await made();
    put64(zstd, 72, 8n);
    zstd.write(104, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    const image = await openImage(zstd, { readOnly: true });
    expect(image.journalStatus()).toBeUndefined();
    expect(image.info().compressionType).toBe('zstd');
  });

  it('[JD13-BIND-008] that leads nowhere is damage in a dirty image, and nothing in a clean one', async () => {
    const device = await made();
    device.write(journalAt(device), new Uint8Array(512));
    put64(device, 88, 1n);
    const clean = await openImage(device, { readOnly: true });
    expect(clean.journalStatus()).toBeUndefined();
    put64(device, 72, 4n);
    for (const readOnly of [true, false]) {
      await expect(openImage(device, { readOnly })).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
    }
  });

  it('[JD13-BIND-009] of another program is used where nobody has taken its clusters, and is vouched for then', async () => {
    const device = await made();
    const at = journalAt(device);
    put64(device, 88, 1n);
    const image = await openImage(device);
    expect(image.journalStatus()).toMatchObject({ hostOffset: at, profile: 'draft-2013' });
    image.abandon();
    expect(headerOf(device).getBigUint64(88)).toBe(1n << 63n);
  });

  it('[JD13-BIND-009] of another program is left alone where a guest cluster stands in its range', async () => {
    const device = await made();
    const at = journalAt(device);
    const before = await openImage(device);
    await before.write(0, new Uint8Array(clusterBytes).fill(1));
    await before.quiesce();
    before.abandon();
    // The first guest cluster is moved into the journal's range, whose clusters count one reference each.
    const view = headerOf(device);
    const table = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00fffffffffffe00n);
    put64(device, table, BigInt(at + 8192) | (1n << 63n));
    device.write(at + 8192, new Uint8Array(clusterBytes).fill(2));
    put64(device, 88, 1n);
    const image = await openImage(device);
    expect(image.journalStatus()?.hostOffset).not.toBe(at);
    for (let i = 1; i < 40; i++) {
      await image.write(i * clusterBytes, new Uint8Array(512).fill(i));
      await image.flush();
    }
    const into = new Uint8Array(clusterBytes);
    await image.read(0, into);
    expect(into).toEqual(new Uint8Array(clusterBytes).fill(2));
  });

  it('[JD13-BIND-010] is damaged where a clean image of ours has something to replay, and left behind in one of others', async () => {
    const device = await dirty([writeTo(0)]);
    const at = journalAt(device);
    put64(device, 72, 0n);
    put64(device, 88, 1n << 63n);
    await expect(openImage(device)).rejects.toMatchObject({
      code: 'JOURNAL_DAMAGED',
      context: { hostOffset: at + 24, clause: 'JD13-BIND-010' },
    });
    const reader = await openImage(device, { readOnly: true });
    await reader.read(0, new Uint8Array(512));
    put64(device, 88, 1n);
    const image = await openImage(device);
    expect(image.journalStatus()?.hostOffset).not.toBe(at);
    await image.write(0, new Uint8Array(512).fill(1));
    await image.quiesce();
    image.abandon();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, checkErrors: 0 });
  });

  it('[JD13-BIND-007] with clusters that are not counted yet is neither error nor leak, and they are counted at opening', async () => {
    const device = await made();
    const view = headerOf(device);
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    const first = journalAt(device) / clusterBytes;
    device.write(block + 2 * (first + 3), new Uint8Array(2 * 5));
    expect(await checkImage(device)).toMatchObject(sound);
    const image = await openImage(device);
    await image.quiesce();
    expect(headerOf(device).getUint16(block + 2 * (first + 3))).toBe(1);
    expect(await checkImage(device)).toMatchObject(sound);
  });
});

describe('a committed transaction', () => {
  it('[JD13-TXN-003, JD13-TXN-005, JD13-DESC-004] is executed after the header has been written again and flushed', async () => {
    const data = new Uint8Array(512).fill(0xee);
    const target = 16 * 65536;
    const device = await dirty([writeTo(target, 300)], data);
    const recorder = new RecordingDevice(device);
    const image = await openImage(recorder);
    expect(recorder.log.slice(0, 4).map(({ kind, event }) => `${kind} ${event}`)).toEqual([
      'write journal_header',
      'flush journal_flush',
      'write journal_write_back',
      'flush flush_data',
    ]);
    expect(image.journalStatus()).toMatchObject({ state: 'clean', replayed: { records: 1 } });
    expect(device.snapshot().subarray(target, target + 300)).toEqual(data.subarray(0, 300));
  });

  it.each([
    ['writes into the journal', 'JD13-DESC-010', (at: number) => [writeTo(at + 600)]],
    [
      'changes what it copies from',
      'JD13-DESC-011',
      (): DraftDescriptor[] => [
        {
          type: 'copy-data',
          chunks: [
            {
              lengthBytes: 512,
              targetHostOffset: hostOffset(1 << 20),
              sourceHostOffset: hostOffset(2 << 20),
            },
          ],
        },
        writeTo((2 << 20) + 100),
      ],
    ],
    ['takes the binding away', 'JD13-DESC-014', () => [writeTo(104)]],
    [
      'holds a descriptor of nobody',
      'JD13-DESC-008',
      (): DraftDescriptor[] => [{ type: 'unknown', number: 77, body: new Uint8Array(4) }],
    ],
  ])(
    '[JD13-DESC-008, JD13-DESC-010, JD13-DESC-011, JD13-DESC-014] that %s is refused, and nothing is written',
    async (_, clause, descriptors) => {
      const at = journalAt(await made());
      const device = await dirty(descriptors(at));
      const before = device.snapshot();
      for (const readOnly of [true, false]) {
        await expect(openImage(device, { readOnly })).rejects.toMatchObject({ context: { clause } });
      }
      expect(device.snapshot()).toEqual(before);
    },
  );

  it('[JD13-RING-006] that can not be read back is damage, named by sequence and host offset', async () => {
    const device = await dirty([writeTo(1 << 20)]);
    const at = journalAt(device);
    device.write(at + 1024 + 5, Uint8Array.of(1));
    for (const readOnly of [true, false]) {
      await expect(openImage(device, { readOnly })).rejects.toMatchObject({
        code: 'JOURNAL_DAMAGED',
        message: expect.stringContaining('transaction 8'),
        context: { hostOffset: at + 512, clause: 'JD13-RING-006' },
      });
    }
  });

  it('[JD13-DESC-012] that copies ever more pending bytes is refused before they fill the memory', async () => {
    const from = 2 ** 24;
    const chunks = Array.from({ length: 15 }, (_, i) => ({
      lengthBytes: 2 ** (i + 9),
      targetHostOffset: hostOffset(from + 2 ** (i + 9)),
      sourceHostOffset: hostOffset(from),
    }));
    const device = await dirty([writeTo(from, 512), { type: 'copy-data', chunks }]);
    device.resize(2 ** 26);
    await expect(openImage(device, { readOnly: true })).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' });
  });
});
