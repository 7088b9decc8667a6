/**
 * Requests that meet at an unlucky moment, each held where it hurts. Every one of these has lost or shown wrong
 * bytes once.
 */
import {
  type BlockDevice,
  FaultDevice,
  ManualScheduler,
  MemoryDevice,
  RecordingDevice,
} from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type CreateOptions, checkImage, createImage, openImage } from '../../src/index.ts';
import { CrashStates } from '../crash/support/crash-states.ts';
import { random } from '../support/random.ts';

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const clusterBytes = 4096;

async function fresh(options: Partial<CreateOptions> = {}): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 1 << 20, clusterBytes, journal, ...options });
  return memory;
}

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

async function turns(count = 300): Promise<void> {
  for (let i = 0; i < count; i++) await Promise.resolve();
}

/** A device whose operations a test can hold, and what a crash now would leave of it. */
function heldDevice(memory: MemoryDevice) {
  const start = memory.clone();
  const scheduler = new ManualScheduler();
  const faults = new FaultDevice(memory, { scheduler });
  const device = new RecordingDevice(faults);
  const crash = (): MemoryDevice => {
    const states = new CrashStates(start, device.log);
    states.advance(device.now);
    return states.draw(random(1), 'nothing');
  };
  return { scheduler, faults, device, crash };
}

async function byteAt(device: BlockDevice, offset: number, backing: BlockDevice | 'none' = 'none') {
  const image = await openImage(device, { readOnly: true, backing });
  const into = new Uint8Array(1);
  await image.read(offset, into);
  return into[0];
}

const modes = [
  ['journalled', {}],
  ['ordered', { journal: false }],
] as const;

describe.each(modes)('%s', (_, options) => {
  it('[JRN-COMMIT-001] a write in place that is under way during a flush is durable after the next one', async () => {
    const { faults, scheduler, device, crash } = heldDevice(await fresh(options));
    const image = await openImage(device);
    await image.write(0, filled(2 * clusterBytes, 1));
    await image.quiesce();
    await image.write(clusterBytes, filled(512, 2));
    faults.addRule({ operation: 'write', event: 'write_data', fault: { kind: 'delay' } });
    const writing = image.write(0, filled(512, 3));
    await turns();
    const others = image.flush();
    await turns();
    scheduler.releaseAll();
    await Promise.all([writing, others]);
    await image.flush();
    expect(await byteAt(crash(), 0)).toBe(3);
  });

  it('a read never shows what another guest cluster wrote into a host cluster that was freed meanwhile', async () => {
    const { faults, scheduler, device } = heldDevice(await fresh(options));
    const image = await openImage(device);
    await image.write(0, filled(clusterBytes, 1));
    await image.quiesce();
    const rule = faults.addRule({ operation: 'read', event: 'read_data', fault: { kind: 'delay' } });
    const into = new Uint8Array(clusterBytes);
    const reading = image.read(0, into);
    await turns();
    expect(scheduler.held).toHaveLength(1);
    rule.remove();
    await image.discard(0, clusterBytes);
    for (let i = 1; i < 20; i++) {
      await image.flush();
      await image.write(i * clusterBytes, filled(clusterBytes, 100 + i));
    }
    scheduler.releaseAll();
    await reading;
    expect([0, 1]).toContain(into[0]);
  });

  it('freed clusters are used again although at every moment some read is under way', async () => {
    const memory = await fresh(options);
    const { faults, scheduler, device } = heldDevice(memory);
    const image = await openImage(device);
    await image.write(0, filled(clusterBytes, 1));
    await image.quiesce();
    const times = Number.POSITIVE_INFINITY;
    faults.addRule({ operation: 'read', event: 'read_data', times, fault: { kind: 'delay' } });
    const before = memory.sizeBytes;
    const reads = [image.read(0, new Uint8Array(512))];
    for (let i = 0; i < 200; i++) {
      // The next read begins before the one before it ends.
      reads.push(image.read(0, new Uint8Array(512)));
      scheduler.release(0);
      await image.write(65536, filled(clusterBytes, i));
      await image.quiesce();
      await image.discard(65536, clusterBytes);
      await image.flush();
    }
    scheduler.releaseAll();
    await Promise.all(reads);
    expect(memory.sizeBytes - before).toBeLessThan(20 * clusterBytes);
  });

  it('making the file longer never cuts off what a write adds meanwhile', async () => {
    const { faults, scheduler, device } = heldDevice(await fresh(options));
    const image = await openImage(device);
    // A fresh cluster that is written in part: the file has to grow to its end.
    await image.write(0, filled(512, 1));
    faults.addRule({ operation: 'resize', fault: { kind: 'delay' } });
    const settling = image.quiesce();
    await turns(2000);
    expect(scheduler.held.map(({ operation }) => operation)).toEqual(['resize']);
    const content = filled(131072, 9);
    const writing = image.write(262144, content);
    await turns(2000);
    scheduler.releaseAll();
    await Promise.all([writing, settling]);
    const into = new Uint8Array(content.length);
    await image.read(262144, into);
    expect(Buffer.compare(into, content)).toBe(0);
  });

  it('what an earlier process wrote and did not flush is durable after a flush that follows its reading', async () => {
    const memory = await fresh(options);
    const { device, crash } = heldDevice(memory);
    const setUp = await openImage(device);
    await setUp.write(0, filled(clusterBytes, 1));
    await setUp.quiesce();
    await setUp.write(0, filled(512, 2));
    setUp.abandon();
    const image = await openImage(device);
    const into = new Uint8Array(1);
    await image.read(0, into);
    expect(into[0]).toBe(2);
    await image.flush();
    expect(await byteAt(crash(), 0)).toBe(2);
  });
});

describe('journalled', () => {
  it('a read shows a flushed write although its cluster settles while the read waits', async () => {
    const { faults, scheduler, device } = heldDevice(await fresh());
    const image = await openImage(device);
    await image.write(0, filled(clusterBytes, 1));
    await image.quiesce();
    await image.write(clusterBytes, filled(512, 7));
    await image.flush();
    const rule = faults.addRule({ operation: 'read', event: 'read_data', fault: { kind: 'delay' } });
    const into = new Uint8Array(2 * clusterBytes);
    const reading = image.read(0, into);
    await turns();
    expect(scheduler.held).toHaveLength(1);
    rule.remove();
    await image.quiesce();
    scheduler.releaseAll();
    await reading;
    expect([into[0], into[clusterBytes]]).toEqual([1, 7]);
  });

  it('a read shows old or new, not the backing file, where a discard comes while it waits', async () => {
    const memory = await fresh({ backingFile: 'base.raw', backingFormat: 'raw' });
    const scheduler = new ManualScheduler();
    const backing = new FaultDevice(MemoryDevice.fromBytes(filled(1 << 20, 5)), { scheduler });
    const image = await openImage(memory, { backing });
    await image.write(clusterBytes, filled(512, 7));
    const rule = backing.addRule({ operation: 'read', fault: { kind: 'delay' } });
    const into = new Uint8Array(clusterBytes);
    const reading = image.read(clusterBytes, into);
    await turns();
    expect(scheduler.held).toHaveLength(1);
    rule.remove();
    await image.discard(clusterBytes, clusterBytes);
    scheduler.releaseAll();
    await reading;
    expect([0, 7]).toContain(into[0]);
  });

  it('[JRN-COMMIT-001, JRN-COMMIT-011] a flushed write is not lost where a discard comes between two records of its commit', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, {
      sizeBytes: 1 << 20,
      clusterBytes: 1024,
      journal,
      backingFile: 'base.raw',
      backingFormat: 'raw',
    });
    const backing = (): MemoryDevice => MemoryDevice.fromBytes(filled(1 << 20, 5));
    const { faults, scheduler, device, crash } = heldDevice(memory);
    const image = await openImage(device, { backing: backing() });
    await image.write(120 * 1024, filled(1024, 1));
    await image.quiesce();
    const writes = 28;
    for (let i = 0; i < writes; i++) await image.write(i * 4096, filled(512, 7));
    faults.addRule({ event: 'journal_append', fault: { kind: 'delay', before: 'completion' } });
    const flushing = image.flush();
    await turns();
    expect(scheduler.held).toHaveLength(1);
    const discards = Array.from({ length: writes }, (_, i) => image.discard(i * 4096, 1024));
    await turns();
    scheduler.releaseAll();
    await Promise.all([flushing, ...discards]);
    for (let i = 0; i < writes; i++) expect([0, 7]).toContain(await byteAt(crash(), i * 4096, backing()));
  });

  it('[JRN-COMMIT-001] a write in place at the end of quiesce is durable after the next flush', async () => {
    const { faults, scheduler, device, crash } = heldDevice(await fresh());
    const image = await openImage(device);
    await image.write(0, filled(clusterBytes, 1));
    await image.quiesce();
    await image.write(10 * clusterBytes, filled(512, 2));
    await image.flush();
    const last = { kind: 'delay', before: 'completion' } as const;
    faults.addRule({ operation: 'flush', event: 'flush_metadata', fault: last });
    const quiesced = image.quiesce();
    await turns(2000);
    expect(scheduler.held).toHaveLength(1);
    await image.write(0, filled(512, 3));
    scheduler.releaseAll();
    await quiesced;
    await image.flush();
    expect(await byteAt(crash(), 0)).toBe(3);
  });

  it('[JRN-COMMIT-009] a freed cluster is not written to before the record that frees it is durable', async () => {
    const memory = await fresh();
    const { device, crash } = heldDevice(memory);
    const image = await openImage(device);
    await image.write(0, filled(clusterBytes, 1));
    await image.quiesce();
    await image.discard(0, clusterBytes);
    for (let i = 1; i < 30; i++) await image.write(i * clusterBytes, filled(clusterBytes, 100 + i));
    await device.flush();
    expect([0, 1]).toContain(await byteAt(crash(), 0));
  });

  it('[JRN-BIND-023] guest writes of records behind the tail of a clean image are not shown', async () => {
    const memory = await fresh();
    const image = await openImage(memory);
    await image.write(0, filled(512, 7));
    await image.flush();
    image.abandon();
    // Somebody clears the dirty bit without replaying.
    memory.write(72, new Uint8Array(8));
    const again = await openImage(memory);
    const into = new Uint8Array(512);
    await again.read(0, into);
    expect(into[0]).toBe(0);
  });
});

describe.each(['enable', 'disable'] as const)('%sJournal', (how) => {
  it.each([0, 1, 2, 3, 5, 8])('loses no write that comes %i turns after it was called', async (after) => {
    const memory = await fresh(how === 'enable' ? { journal: false } : {});
    const image = await openImage(memory);
    await image.write(0, filled(clusterBytes, 1));
    const switching = how === 'enable' ? image.enableJournal({ sizeBytes: 65536 }) : image.disableJournal();
    await turns(after);
    await image.write(65536, filled(512, 2));
    await image.write(131072, filled(clusterBytes, 3));
    await switching;
    await image.flush();
    image.abandon();
    expect([await byteAt(memory.clone(), 65536), await byteAt(memory.clone(), 131072)]).toEqual([2, 3]);
    const report = await checkImage(memory.clone());
    expect(report.findings).toEqual([]);
    expect(image.journalStatus() === undefined).toBe(how === 'disable');
  });
});
