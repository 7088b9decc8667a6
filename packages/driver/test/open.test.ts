/** What opening refuses, replays, keeps and clears: header bits, journal binding, names. */
import { MemoryDevice, ReadOnlyDevice, RecordingDevice } from '@qcow2/block-device';
import {
  decodeHeader,
  encodeHeader,
  findHeaderExtension,
  type Qcow2Header,
  readRefcountBlockOffset,
  refcountCodec,
} from '@qcow2/codec';
import { decodeJournalExtension, decodeSlot, encodeJournalExtension } from '@qcow2/codec/journal/v1';
import {
  autoclearFeatures,
  compatibleFeatures,
  headerExtensionTypes,
  hostOffset,
  incompatibleFeatures,
} from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  type CreateOptions,
  checkImage,
  createImage,
  openImage,
  probeImage,
  type Qcow2Image,
} from '../src/index.ts';

const clusterBytes = 4096;
const sizeBytes = 256 * 1024;
const ring = { sizeBytes: 128 * 1024, blockBytes: 512 };

async function made(options: Partial<CreateOptions> = {}): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes, clusterBytes, ...options });
  return memory;
}

function headerOf(memory: MemoryDevice): Qcow2Header {
  return decodeHeader(memory.snapshot().subarray(0, clusterBytes));
}

function changeHeader(memory: MemoryDevice, change: (header: Qcow2Header) => void): void {
  const header = headerOf(memory);
  change(header);
  memory.write(0, encodeHeader(header));
}

function areaOf(memory: MemoryDevice): { hostOffset: number; lengthBytes: number } {
  const data = findHeaderExtension(headerOf(memory).extensions, headerExtensionTypes.journal)!;
  return decodeJournalExtension(data, { hostOffset: hostOffset(0), clusterBytes }).journals[0]!;
}

/** As a crash leaves it: guest writes in the log, the dirty bit set. */
async function dirty(): Promise<MemoryDevice> {
  const memory = await made({ journal: ring });
  const image = await openImage(memory);
  await image.write(1000, new Uint8Array(5000).fill(7));
  await image.write(100_000, new Uint8Array(5000).fill(8));
  await image.flush();
  image.abandon();
  return memory;
}

async function bytesAt(image: Qcow2Image, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await image.read(offset, bytes);
  return bytes;
}

/** Count a cluster as used in the refcounts, as a tool that allocates without a word does. */
function takeCluster(memory: MemoryDevice, at: number): void {
  const bytes = memory.snapshot();
  const header = headerOf(memory);
  const table = new DataView(bytes.buffer, header.refcountTableOffset, clusterBytes);
  const block = readRefcountBlockOffset(table, 0);
  const view = new DataView(bytes.buffer, block, clusterBytes);
  refcountCodec(header.refcountOrder).set(view, at / clusterBytes, 1);
  memory.write(block, bytes.subarray(block, block + clusterBytes));
}

describe('features', () => {
  it('[FEA-006] refuses an incompatible bit without a name for reading and for writing, by what the image calls it', async () => {
    const memory = await made();
    changeHeader(memory, (header) => {
      header.incompatibleFeatures |= 1n << 40n;
    });
    for (const readOnly of [true, false]) {
      await expect(openImage(memory, { readOnly })).rejects.toMatchObject({
        code: 'UNSUPPORTED_FEATURE',
        context: { clause: 'FEA-006', hostOffset: 72 },
      });
    }
  });

  it('[LAZ-008] refuses to write an image that is dirty in both ways', async () => {
    const memory = await made({ journal: ring });
    const image = await openImage(memory);
    await image.write(0, Uint8Array.of(1));
    await image.flush();
    image.abandon();
    changeHeader(memory, (header) => {
      header.incompatibleFeatures |= incompatibleFeatures.dirty;
    });
    await expect(openImage(memory)).rejects.toMatchObject({
      code: 'BAD_FIELD',
      context: { clause: 'LAZ-008' },
    });
    expect(await bytesAt(await openImage(memory, { readOnly: true }), 0, 1)).toEqual(Uint8Array.of(1));
  });

  it('[FEA-002] refuses to write an image that is marked as corrupt, and reads it', async () => {
    const memory = await made();
    changeHeader(memory, (header) => {
      header.incompatibleFeatures |= incompatibleFeatures.corrupt;
    });
    await expect(openImage(memory)).rejects.toMatchObject({ context: { clause: 'FEA-002' } });
    expect((await probeImage(memory)).info().corrupt).toBe(true);
  });

  it('[FEA-012] clears the autoclear bits that it does not serve before anything else, and keeps compatible ones', async () => {
    const memory = await made();
    changeHeader(memory, (header) => {
      header.autoclearFeatures |= 1n << 17n;
      header.compatibleFeatures |= 1n << 33n;
    });
    const recording = new RecordingDevice(memory);
    const image = await openImage(recording);
    expect(recording.log.filter(({ kind }) => kind === 'write')).toMatchObject([{ event: 'header_update' }]);
    image.abandon();
    const header = headerOf(memory);
    expect(header.autoclearFeatures).toBe(0n);
    expect(header.compatibleFeatures & ~compatibleFeatures.lazyRefcounts).toBe(1n << 33n);
  });

  it('[EXT-017] follows no backing file name by itself', async () => {
    const memory = await made({ backingFile: '/etc/passwd', backingFormat: 'raw' });
    await expect(openImage(memory)).rejects.toMatchObject({ code: 'NO_POLICY' });
    const image = await openImage(memory, { backing: MemoryDevice.fromBytes(new Uint8Array(4096).fill(3)) });
    expect(await bytesAt(image, 4095, 2)).toEqual(Uint8Array.of(3, 0));
    image.abandon();
  });
});

describe('the journal of a clean image', () => {
  it('[JRN-BIND-015] has clusters of refcount 0, which the check knows', async () => {
    const memory = await made({ journal: ring });
    const report = await checkImage(memory);
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, journal: areaOf(memory) });
    takeCluster(memory, areaOf(memory).hostOffset + clusterBytes);
    expect(await checkImage(memory)).toMatchObject({ leaks: 1 });
  });

  it('[JRN-BIND-016] is left alone where a cluster of its range has been taken, and a new one is made', async () => {
    const memory = await made({ journal: ring });
    const old = areaOf(memory);
    takeCluster(memory, old.hostOffset + 8 * clusterBytes);
    await expectNewJournal(memory, old);
  });

  it('[JRN-BIND-017] is left alone where the valid bit is clear, and a new one is made', async () => {
    const memory = await made({ journal: ring });
    const old = areaOf(memory);
    changeHeader(memory, (header) => {
      header.autoclearFeatures &= ~autoclearFeatures.journalValid;
    });
    await expectNewJournal(memory, old);
  });

  it('[JRN-BIND-023] is made anew where a slot is damaged', async () => {
    const memory = await made({ journal: ring });
    const old = areaOf(memory);
    memory.write(old.hostOffset + 100, Uint8Array.of(1));
    const image = await openImage(memory);
    expect(image.journalStatus()).toMatchObject({ state: 'clean' });
    expect(areaOf(memory).hostOffset).not.toBe(old.hostOffset);
    image.abandon();
  });

  it('[JRN-BIND-025] is made anew no larger than the default where the file does not have the one that is named', async () => {
    const memory = await made({ journal: ring });
    changeHeader(memory, (header) => {
      const extension = header.extensions.find(({ type }) => type === headerExtensionTypes.journal)!;
      new DataView(extension.data.buffer, extension.data.byteOffset).setBigUint64(24, 1n << 30n);
    });
    const image = await openImage(memory);
    expect(image.journalStatus()).toMatchObject({ state: 'clean', lengthBytes: 16 << 20 });
    expect(memory.sizeBytes).toBeLessThan(17 << 20);
    image.abandon();
  });

  it('[JRN-BIND-022] counts for nothing where the extension has a version that is not known', async () => {
    const memory = await made({ journal: ring });
    changeHeader(memory, (header) => {
      const extension = header.extensions.find(({ type }) => type === headerExtensionTypes.journal)!;
      extension.data[3] = 9;
    });
    const image = await openImage(memory);
    await image.write(0, new Uint8Array(512).fill(1));
    await image.close();
    expect(headerOf(memory).autoclearFeatures & autoclearFeatures.journalValid).toBe(0n);
  });

  it('[JRN-BIND-020] is bound only when every byte of it is durable', async () => {
    const recording = new RecordingDevice(new MemoryDevice());
    await createImage(recording, { sizeBytes, clusterBytes, journal: ring });
    const events = recording.log.map(({ kind, event }) => (kind === 'flush' ? 'flush' : event));
    const made = events.lastIndexOf('journal_init');
    const slots = events.lastIndexOf('journal_slot');
    const bound = events.indexOf('header_update', made);
    expect(made).toBeLessThan(slots);
    expect(slots).toBeLessThan(bound);
    expect(events.slice(slots, bound)).toContain('flush');
  });

  it('[JRN-AREA-004] begins as zeros behind two slots that know of no record', async () => {
    const memory = await made({ journal: ring });
    const area = areaOf(memory);
    const bytes = memory.snapshot().subarray(area.hostOffset, area.hostOffset + area.lengthBytes);
    for (const [index, at] of [0, 4096].entries()) {
      const slot = decodeSlot(bytes.subarray(at, at + 512), { hostOffset: hostOffset(area.hostOffset + at) });
      expect(slot).toMatchObject({
        generation: index,
        tailPosition: 0,
        tailSequence: 1,
        durableSequence: 0,
        tailChain: 0,
      });
      expect(slot.journalId).not.toBe(0n);
    }
    expect(bytes.subarray(8192).every((byte) => byte === 0)).toBe(true);
  });

  it('[JRN-BIND-019] is refused to a version 2 image', async () => {
    const memory = await made({ version: 2 });
    const image = await openImage(memory);
    await expect(image.enableJournal()).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
  });

  it('can be taken away and made again, and the image stays whole', async () => {
    const memory = await made({ journal: ring });
    const image = await openImage(memory);
    await image.write(5000, new Uint8Array(3000).fill(4));
    await image.disableJournal();
    expect(image.journalStatus()).toBeUndefined();
    await image.write(9000, new Uint8Array(3000).fill(5));
    await image.enableJournal(ring);
    await image.write(200_000, new Uint8Array(3000).fill(6));
    await image.flush();
    image.abandon();
    const again = await openImage(memory);
    expect(await bytesAt(again, 7999, 1)).toEqual(Uint8Array.of(4));
    expect(await bytesAt(again, 11_999, 1)).toEqual(Uint8Array.of(5));
    expect(await bytesAt(again, 200_000, 1)).toEqual(Uint8Array.of(6));
    again.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});

describe('a dirty image', () => {
  it('[JRN-RO-001] is read without one byte written', async () => {
    const memory = await dirty();
    const before = memory.snapshot();
    const image = await openImage(new ReadOnlyDevice(memory), { readOnly: true });
    expect(await bytesAt(image, 1000, 5000)).toEqual(new Uint8Array(5000).fill(7));
    expect(await bytesAt(image, 100_000, 5000)).toEqual(new Uint8Array(5000).fill(8));
    image.abandon();
    expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
  });

  it('[JRN-RECOV-012] opened for writing is an ordinary image before the first request', async () => {
    const memory = await dirty();
    const image = await openImage(memory);
    image.abandon();
    expect(headerOf(memory).incompatibleFeatures).toBe(0n);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
    const again = await openImage(memory, { readOnly: true });
    expect(await bytesAt(again, 1000, 5000)).toEqual(new Uint8Array(5000).fill(7));
  });

  it('[JRN-RECOV-010] has its slot and its last records written again before anything else', async () => {
    const recording = new RecordingDevice(await dirty());
    const before = await snapshotOf(recording);
    const image = await openImage(recording);
    const first = recording.log.slice(0, recording.log.findIndex(({ kind }) => kind === 'flush') + 1);
    expect(first.map(({ kind, event }) => event ?? kind)).toEqual([
      'journal_slot',
      'journal_append',
      'journal_flush',
    ]);
    for (const operation of first) {
      if (operation.kind !== 'write') continue;
      const { offset, bytes } = operation;
      expect(Buffer.compare(bytes, before.subarray(offset, offset + bytes.length))).toBe(0);
    }
    image.abandon();
  });

  it('[JRN-BIND-018] without a valid bit, or without an extension, is refused for reading and for writing', async () => {
    const changes: ((header: Qcow2Header) => void)[] = [
      (header) => {
        header.autoclearFeatures = 0n;
      },
      (header) => {
        header.extensions = header.extensions.filter(({ type }) => type !== headerExtensionTypes.journal);
      },
    ];
    for (const change of changes) {
      const memory = await dirty();
      changeHeader(memory, change);
      for (const readOnly of [true, false]) {
        await expect(openImage(memory, { readOnly })).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
      }
    }
  });

  it('[JRN-BIND-016] is refused where clusters of the live journal have been taken', async () => {
    const memory = await dirty();
    takeCluster(memory, areaOf(memory).hostOffset);
    await expect(openImage(memory)).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
  });

  it('[JRN-MULTI-001] with a second journal is refused', async () => {
    const memory = await dirty();
    changeHeader(memory, (header) => {
      const index = header.extensions.findIndex(({ type }) => type === headerExtensionTypes.journal);
      const main = { kind: 'main' as const, flags: 0, ...areaOf(memory) };
      const other = {
        ...main,
        kind: 'other' as const,
        hostOffset: hostOffset(main.hostOffset + main.lengthBytes),
      };
      const journals = [main, other].map((journal) => ({
        ...journal,
        hostOffset: hostOffset(journal.hostOffset),
      }));
      const data = encodeJournalExtension({ version: 1, journals });
      header.extensions[index] = { type: headerExtensionTypes.journal, data };
    });
    await expect(openImage(memory, { readOnly: true })).rejects.toMatchObject({
      code: 'UNSUPPORTED_FEATURE',
      context: { clause: 'JRN-MULTI-001' },
    });
  });
});

it('[RCB-005] copies a shared cluster before it is changed', async () => {
  const memory = await made();
  let image = await openImage(memory);
  await image.write(0, new Uint8Array(clusterBytes).fill(1));
  await image.close();
  const shared = MemoryDevice.fromBytes(memory.snapshot(), {});
  // Refcount 2 and no copied flags: as a snapshot leaves them.
  const bytes = shared.snapshot();
  const view = new DataView(bytes.buffer);
  const header = decodeHeader(bytes.subarray(0, clusterBytes));
  const l2 = Number(view.getBigUint64(header.l1Offset) & 0x00fffffffffffe00n);
  const data = Number(view.getBigUint64(l2) & 0x00fffffffffffe00n);
  view.setBigUint64(l2, BigInt(data));
  const block = Number(view.getBigUint64(header.refcountTableOffset));
  view.setUint16(block + (data / clusterBytes) * 2, 2);
  shared.write(0, bytes);
  image = await openImage(shared);
  await image.write(100, new Uint8Array(10).fill(2));
  expect(await bytesAt(image, 99, 12)).toEqual(Uint8Array.of(1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1));
  await image.close();
  const after = shared.snapshot();
  expect(after.subarray(data, data + clusterBytes).every((byte) => byte === 1)).toBe(true);
  expect(new DataView(after.buffer).getUint16(block + (data / clusterBytes) * 2)).toBe(1);
});

async function snapshotOf(device: RecordingDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

async function expectNewJournal(
  memory: MemoryDevice,
  old: { hostOffset: number; lengthBytes: number },
): Promise<void> {
  const recording = new RecordingDevice(memory);
  const image = await openImage(recording);
  await image.write(0, new Uint8Array(512).fill(1));
  await image.flush();
  image.abandon();
  const area = areaOf(memory);
  expect(area.hostOffset).not.toBe(old.hostOffset);
  expect(image.journalStatus()).toMatchObject({ state: 'dirty' });
  const oldEnd = old.hostOffset + old.lengthBytes;
  for (const operation of recording.log) {
    if (operation.kind !== 'write') continue;
    const { offset, bytes } = operation;
    expect(offset + bytes.length <= old.hostOffset || offset >= oldEnd).toBe(true);
  }
}

it('[JRN-RECOV-013] is not replayed for writing without the backing file that completes its clusters', async () => {
  const memory = await made({ journal: ring, backingFile: 'base', backingFormat: 'raw' });
  const backing = (): MemoryDevice => MemoryDevice.fromBytes(new Uint8Array(sizeBytes).fill(9));
  const image = await openImage(memory, { backing: backing() });
  await image.write(5000, new Uint8Array(100).fill(1));
  await image.flush();
  image.abandon();
  await expect(openImage(memory, { backing: 'none' })).rejects.toMatchObject({ code: 'NO_POLICY' });
  const again = await openImage(memory, { backing: backing() });
  expect(await bytesAt(again, 4999, 3)).toEqual(Uint8Array.of(9, 1, 1));
  again.abandon();
});

it('[JRN-WB-010] is brought to the state of a clean close after a while without requests', async () => {
  const memory = await made({ journal: ring });
  const image = await openImage(memory, { journal: { idleMs: 5 } });
  await image.write(5000, new Uint8Array(100).fill(1));
  await image.flush();
  expect(headerOf(memory).incompatibleFeatures).not.toBe(0n);
  await expect.poll(() => headerOf(memory).incompatibleFeatures).toBe(0n);
  await image.write(9000, new Uint8Array(100).fill(2));
  await image.flush();
  expect(image.journalStatus()).toMatchObject({ state: 'dirty' });
  image.abandon();
});
