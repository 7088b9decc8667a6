/** Clusters that are mapped before they are copied: what the log says of them, and what holds until they are. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import type { JournalDescriptor } from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset } from '@qcow2/spec';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Allocator } from '../../src/allocator.ts';
import { checkImage, createImage, type OpenOptions, openImage } from '../../src/index.ts';
import { CountingDevice } from '../support/counting-device.ts';
import { appendedRecords, appendRecord } from '../support/journal-records.ts';
import { random } from '../support/random.ts';
import { addSnapshot, dropSnapshot, snapshotView } from './support/shared-tables.ts';

const clusterBytes = 4096;
const diskBytes = 64 * clusterBytes;
const content = random(5).bytes(diskBytes);
/** Every piece goes in place, and is mapped at the next flush. */
const direct = { directWriteBytes: 512, directFlushBytes: 0 } as const;

async function made(below: 'backing' | 'snapshot'): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, {
    sizeBytes: diskBytes,
    clusterBytes,
    journal: { sizeBytes: 65536, blockBytes: 512 },
    ...(below === 'backing' ? { backingFile: 'below', backingFormat: 'raw' } : {}),
  });
  if (below === 'backing') return memory;
  const image = await openImage(memory);
  await image.write(0, content);
  await image.quiesce();
  image.abandon();
  addSnapshot(memory);
  return memory;
}

function options(below: 'backing' | 'snapshot', more: OpenOptions = {}): OpenOptions {
  const backing = below === 'backing' ? { backing: MemoryDevice.fromBytes(content) } : {};
  return { journal: direct, ...backing, ...more };
}

async function shown(memory: MemoryDevice, how: OpenOptions): Promise<Uint8Array> {
  const image = await openImage(memory, { ...how, readOnly: true });
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  image.abandon();
  return bytes;
}

function fileOf(memory: MemoryDevice): Uint8Array {
  const bytes = new Uint8Array(memory.sizeBytes);
  memory.read(0, bytes);
  return bytes;
}

function same(left: Uint8Array, right: Uint8Array): void {
  expect(Buffer.compare(left, right)).toBe(0);
}

afterEach(() => vi.restoreAllMocks());

describe.each(['backing', 'snapshot'] as const)('part of a cluster over a %s', (below) => {
  it('[JRN-COPY-001, JRN-COPY-002, JRN-COPY-006] is mapped with the rest left to the log, and read from there', async () => {
    const memory = await made(below);
    const device = new RecordingDevice(memory);
    const counting = new CountingDevice(device);
    const image = await openImage(counting, options(below));
    counting.reset();
    const model = content.slice();
    model.fill(9, 1024, 1536);
    await image.write(1024, model.slice(1024, 1536));
    await image.flush();
    // Nothing was read from below, nothing copied: the record says where the rest stands.
    expect(counting.reads('read_data').bytes + counting.reads('cow_read').bytes).toBe(0);
    expect(counting.writes('cow_write').bytes).toBe(0);
    const logged = appendedRecords(device.log).flatMap(({ record }) => record.descriptors);
    const type = below === 'backing' ? 'fill-from-backing' : 'copy';
    expect(logged.flatMap((each) => (each.type === type ? [each.lengthBytes] : []))).toEqual([1024, 2560]);
    const read = new Uint8Array(diskBytes);
    await image.read(0, read);
    same(read, model);
    image.abandon();
    // A reader looks through the log, and writes nothing.
    const before = memory.clone();
    same(await shown(memory, options(below)), model);
    same(fileOf(memory), fileOf(before));
    // A writer carries it out, and again where it was cut off.
    const again = await openImage(memory, options(below));
    await again.read(0, read);
    same(read, model);
    again.abandon();
    const report = await checkImage(memory);
    expect(report.corruptions + report.leaks).toBe(0);
    same(await shown(memory, options(below)), model);
    if (below === 'snapshot') same(await shown(snapshotView(memory), {}), content);
  });

  it('[JRN-COPY-005] takes newer bytes in place, which a revoke protects once they are durable', async () => {
    const memory = await made(below);
    const device = new RecordingDevice(memory);
    const image = await openImage(device, options(below));
    const model = content.slice();
    const put = async (offset: number, length: number, value: number): Promise<void> => {
      model.fill(value, offset, offset + length);
      await image.write(offset, model.slice(offset, offset + length));
    };
    await put(0, 512, 1);
    await image.flush();
    const from = device.log.length;
    await put(2048, 1024, 2);
    // Not aligned: the rest of its sectors comes with it.
    await put(3300, 520, 3);
    const before = memory.clone();
    await image.flush();
    const since = device.log.slice(from);
    const flushed = since.find(({ kind }) => kind === 'flush')!;
    const { record, time } = appendedRecords(since)[0]!;
    expect(time).toBeGreaterThan(flushed.completedAt!);
    const revoked = record.descriptors.flatMap((each) => (each.type === 'revoke' ? [each.lengthBytes] : []));
    expect(revoked).toEqual([1024, 1024]);
    image.abandon();
    same(await shown(memory, options(below)), model);
    const again = await openImage(memory, options(below));
    again.abandon();
    same(await shown(memory, options(below)), model);
    // Before that flush the log still says what the flush before it promised.
    model.set(content.subarray(2048, 3072), 2048);
    model.set(content.subarray(3300, 3820), 3300);
    same(await shown(before, options(below)), model);
  });

  it('[JRN-COPY-009] is carried out, or revoked, and flushed before the tail passes its record', async () => {
    const memory = await made(below);
    const device = new RecordingDevice(memory);
    const image = await openImage(device, options(below));
    const model = content.slice();
    const rng = random(11);
    for (let i = 0; i < 500; i++) {
      const length = 512 * (1 + rng.below(4));
      const offset = 512 * rng.below((diskBytes - length) / 512);
      model.fill(i, offset, offset + length);
      await image.write(offset, model.slice(offset, offset + length));
      if (i % 40 === 39) await image.discard(clusterBytes * rng.below(64), clusterBytes);
      if (i % 40 === 39) await image.read(0, model);
      await image.flush();
    }
    image.abandon();
    same(await shown(memory, options(below)), model);
    expect(looseFills(device)).toEqual({ passed: expect.any(Number), loose: [] });
    expect(looseFills(device).passed).toBeGreaterThan(20);
  });
});

/** Sectors of copies and fills that a slot's tail has passed, and that were neither written nor revoked by then. */
function looseFills(device: RecordingDevice): { passed: number; loose: number[] } {
  const { log } = device;
  const records = appendedRecords(log);
  const loose: number[] = [];
  let passed = 0;
  for (const slotWrite of log) {
    if (slotWrite.kind !== 'write' || slotWrite.event !== 'journal_slot') continue;
    const tail = Number(new DataView(slotWrite.bytes.buffer, slotWrite.bytes.byteOffset).getBigUint64(56));
    const flush = log.findLast(
      ({ kind, completedAt }) => kind === 'flush' && completedAt! < slotWrite.startedAt,
    )!;
    for (const { record, time } of records) {
      if (record.sequence >= tail) continue;
      for (const descriptor of record.descriptors) {
        if (descriptor.type !== 'copy' && descriptor.type !== 'fill-from-backing') continue;
        const { targetHostOffset: start, lengthBytes } = descriptor;
        for (let at: number = start; at < start + lengthBytes; at += 512) {
          passed++;
          const written = log.some(
            (each) =>
              each.kind === 'write' &&
              (each.event === 'cow_write' || each.event === 'write_data') &&
              each.startedAt > time &&
              each.completedAt! < flush.startedAt &&
              each.offset <= at &&
              at < each.offset + each.bytes.length,
          );
          const revoked = records.some(
            ({ record: later }) =>
              later.sequence > record.sequence &&
              later.descriptors.some(
                (each) =>
                  each.type === 'revoke' && each.hostOffset <= at && at < each.hostOffset + each.lengthBytes,
              ),
          );
          if (!written && !revoked) loose.push(at);
        }
      }
    }
  }
  return { passed, loose };
}

describe('the source of a copy', () => {
  /** A cluster is copied from one to which nothing refers any more. Returns whether it was written meanwhile. */
  async function reuseSource(): Promise<{ written: boolean; right: boolean; later: boolean }> {
    const memory = await made('snapshot');
    // Refcount 2, one of which is the snapshot's. Without it nothing but the copy knows the cluster.
    dropSnapshot(memory);
    const device = new RecordingDevice(memory);
    const image = await openImage(device, options('snapshot'));
    const model = content.slice();
    model.fill(7, 0, 512);
    await image.write(0, model.slice(0, 512));
    await image.flush();
    const copy = appendedRecords(device.log)
      .flatMap(({ record }) => record.descriptors)
      .find((each) => each.type === 'copy')!;
    const source = copy.type === 'copy' ? copy.sourceHostOffset : hostOffset(0);
    const cluster = source - (source % clusterBytes);
    const isWritten = (from: number): boolean =>
      device.log
        .slice(from)
        .some(
          (each) => each.kind === 'write' && each.offset >= cluster && each.offset < cluster + clusterBytes,
        );
    // Whole clusters, which want to be somewhere.
    for (let i = 1; i < 6; i++) {
      model.fill(i, i * clusterBytes, (i + 1) * clusterBytes);
      await image.write(i * clusterBytes, model.slice(i * clusterBytes, (i + 1) * clusterBytes));
      await image.flush();
    }
    const written = isWritten(0);
    image.abandon();
    const right = Buffer.compare(await shown(memory, options('snapshot')), model) === 0;
    const again = await openImage(device, options('snapshot'));
    const from = device.log.length;
    for (let i = 6; i < 9; i++) await again.write(i * clusterBytes, new Uint8Array(clusterBytes).fill(i));
    again.abandon();
    return { written, right, later: isWritten(from) };
  }

  it('[JRN-COPY-004] is not handed out while the copy is live, whatever its refcount, and is afterwards', async () => {
    expect(await reuseSource()).toEqual({ written: false, right: true, later: true });
  });

  it('is handed out, and the copy spoilt, by an allocator that knows no pins', async () => {
    vi.spyOn(Allocator.prototype, 'pin').mockImplementation(() => undefined);
    expect(await reuseSource()).toMatchObject({ written: true, right: false });
  });

  it('[JRN-COPY-004] that is the backing file has to be given to whoever replays for writing', async () => {
    const memory = await made('backing');
    const image = await openImage(memory, options('backing'));
    await image.write(0, new Uint8Array(512));
    await image.flush();
    image.abandon();
    await expect(openImage(memory, { backing: 'none' })).rejects.toMatchObject({ code: 'NO_POLICY' });
  });
});

describe('a log', () => {
  /** Target at 512 of a cluster of the image, source in another one. */
  async function refusal(later: (target: number, source: number) => JournalDescriptor[]): Promise<unknown> {
    const memory = await made('snapshot');
    const image = await openImage(memory, options('snapshot'));
    await image.write(0, new Uint8Array(512));
    await image.flush();
    const area = image.journalStatus()!;
    image.abandon();
    const target = Math.ceil(memory.sizeBytes / clusterBytes) * clusterBytes;
    const source = target + 32 * clusterBytes;
    await appendRecord(memory, area, [copy(target + 512, source, 1024), ...later(target, source)]);
    for (const readOnly of [false, true]) {
      const opening = openImage(memory.clone(), options('snapshot', { readOnly }));
      await expect(opening).rejects.toMatchObject({ name: 'FormatError' });
    }
    return openImage(memory.clone(), options('snapshot')).catch((error: unknown) => error);
  }

  it.each([
    ['a copy beyond its cluster', (at: number) => copy(at + 3584, 8 * clusterBytes, 1024)],
    ['a copy of part of a sector', (at: number) => copy(at + 2048, 8 * clusterBytes, 100)],
    ['a fill that is not aligned', (at: number) => fill(at + 2049, 512)],
    [
      'a revoke that cuts a sector',
      (at: number): JournalDescriptor => ({
        type: 'revoke',
        hostOffset: hostOffset(at + 512),
        lengthBytes: 100,
      }),
    ],
    [
      'a write into part of a sector',
      (at: number): JournalDescriptor => ({
        type: 'inline-write',
        hostOffset: hostOffset(at + 600),
        bytes: new Uint8Array(8),
      }),
    ],
  ])('[JRN-COPY-007] that holds %s is refused', async (_, later) => {
    expect(await refusal((at) => [later(at)])).toMatchObject({
      code: 'BAD_FIELD',
      context: { clause: 'JRN-COPY-007' },
    });
  });

  it('[JRN-COPY-008] that copies from the target of a copy is refused', async () => {
    const error = await refusal((at) => [copy(at + 8 * clusterBytes, at + 1024, 512)]);
    expect(error).toMatchObject({ code: 'OVERLAP', context: { clause: 'JRN-COPY-008' } });
  });

  it.each([
    [
      'writes',
      (source: number): JournalDescriptor => ({
        type: 'inline-write',
        hostOffset: hostOffset(source + 1000),
        bytes: new Uint8Array(8),
      }),
    ],
    ['fills', (source: number): JournalDescriptor => fill(source + 512, 512)],
  ])('[JRN-COPY-004] that %s the source of a live copy is refused', async (_, later) => {
    const error = await refusal((_at, source) => [later(source)]);
    expect(error).toMatchObject({ code: 'OVERLAP', context: { clause: 'JRN-COPY-004' } });
  });
});

function copy(target: number, source: number, lengthBytes: number): JournalDescriptor {
  return {
    type: 'copy',
    targetHostOffset: hostOffset(target),
    sourceHostOffset: hostOffset(source),
    lengthBytes,
  };
}

function fill(target: number, lengthBytes: number): JournalDescriptor {
  return {
    type: 'fill-from-backing',
    targetHostOffset: hostOffset(target),
    guestOffset: guestOffset(0),
    lengthBytes,
  };
}
