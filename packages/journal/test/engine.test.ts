/** The engine on its own: what a commit costs, what it waits for, and what a revoke reaches. */
import { FaultDevice, ManualScheduler, MemoryDevice, PatchMap, RecordingDevice } from '@qcow2/block-device';
import { decodeRecord, type JournalRecord, journalGeometry, maxRecordBlocks } from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import type { Microtransaction } from '../src/index.ts';
import { random } from './support/random.ts';
import { area, formatted, SectorGuest, sectorBytes } from './support/sector-guest.ts';

const blockBytes = 512;

async function fresh(options: { delayed?: boolean } = {}) {
  const memory = new MemoryDevice();
  await formatted(memory, random(1), blockBytes);
  const scheduler = new ManualScheduler();
  const faulty = new FaultDevice(memory, { scheduler });
  const device = new RecordingDevice(options.delayed === true ? faulty : memory);
  const guest = await SectorGuest.open(device, random(2));
  return { memory, scheduler, faulty, device, guest };
}

function change(over: Partial<Microtransaction>): Microtransaction {
  return { required: true, afterData: false, ...over };
}

/** The records that were appended, none of which wraps. */
function recordsOf(device: RecordingDevice): JournalRecord[] {
  const { ringBytes } = journalGeometry(area.lengthBytes, blockBytes);
  const records: JournalRecord[] = [];
  for (const operation of device.log) {
    if (operation.kind !== 'write' || operation.event !== 'journal_append') continue;
    const context = { hostOffset: hostOffset(operation.offset), blockBytes };
    records.push(
      decodeRecord(operation.bytes, { ...context, maxBlocks: maxRecordBlocks(ringBytes, blockBytes) }),
    );
  }
  return records;
}

async function turns(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

function sector(value: number): Uint8Array {
  return new Uint8Array(sectorBytes).fill(value);
}

describe('a commit', () => {
  it('[JRN-COMMIT-015] takes one flush where little is gathered and the image is dirty already', async () => {
    const { guest, device } = await fresh();
    guest.write(0, sector(1));
    await guest.flush();
    for (let i = 0; i < 20; i++) {
      const before = device.counters.flushes;
      guest.write(i % 4, sector(i));
      guest.count(i, BigInt(i));
      await guest.flush();
      expect(device.counters.flushes - before).toBe(1);
    }
  });

  it('takes no flush where nothing was written since the last', async () => {
    const { guest, device } = await fresh();
    guest.write(0, sector(1));
    await guest.flush();
    const before = device.counters.flushes;
    await guest.flush();
    expect(device.counters.flushes).toBe(before);
  });

  it('[JRN-COMMIT-015] serves all who came while one was under way with the next', async () => {
    const { guest, device, faulty, scheduler } = await fresh({ delayed: true });
    guest.write(0, sector(1));
    await guest.flush();
    const rule = faulty.addRule({ operation: 'flush', fault: { kind: 'delay' } });
    guest.write(1, sector(2));
    const first = guest.flush();
    await turns();
    expect(scheduler.held).toHaveLength(1);
    rule.remove();
    const before = device.counters.flushes;
    guest.write(2, sector(3));
    const later = Array.from({ length: 10 }, () => guest.flush());
    scheduler.releaseAll();
    await Promise.all([first, ...later]);
    expect(device.counters.flushes - before).toBe(1);
    expect(guest.engine.counters.sharedCommits).toBe(9);
    // Two groups of one, and one of the ten: 9 to 16.
    expect(guest.engine.counters.groupSizes).toEqual([2, 0, 0, 0, 1]);
  });

  it('logs what was written before it, and not what comes for ever while it is under way', async () => {
    const { guest, faulty, scheduler } = await fresh({ delayed: true });
    const event = ['journal_append', 'journal_flush'] as const;
    faulty.addRule({ event, times: Number.POSITIVE_INFINITY, fault: { kind: 'delay' } });
    guest.write(0, sector(1));
    const flushing = Promise.resolve(guest.flush());
    let waits = 0;
    let done = false;
    void flushing.then(() => {
      done = true;
    });
    // Whenever the commit waits, the guest writes again.
    for (await turns(); !done && waits < 50; await turns()) {
      guest.write(++waits, sector(waits));
      scheduler.releaseAll();
    }
    await flushing;
    expect(waits).toBeLessThan(5);
  });

  it('[JRN-COMMIT-003] logs a mapping only after a flush that began when its bytes were written', async () => {
    const { guest, device } = await fresh();
    guest.write(0, sector(1));
    await guest.flush();
    await device.write(20480, sector(9), { event: 'write_data' });
    guest.engine.noteDeviceWrite();
    const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    guest.engine.submit(change({ hostWrites: [{ hostOffset: hostOffset(8192), bytes }], afterData: true }));
    await guest.flush();
    const data = device.log.findLast(({ event }) => event === 'write_data')!;
    const append = device.log.findLast(({ event }) => event === 'journal_append')!;
    const between = device.log.filter(
      ({ kind, startedAt, completedAt }) =>
        kind === 'flush' && startedAt > data.completedAt! && completedAt! < append.startedAt,
    );
    expect(between).toHaveLength(1);
  });

  it('[JRN-COMMIT-005, JRN-COMMIT-006] keeps each change whole in one record, and changes of one place in order', async () => {
    const { guest, device } = await fresh();
    // Together far more than a record takes; the last byte of each names its change.
    for (let i = 0; i < 60; i++) {
      const hostWrites = [0, 1, 2].map((part) => ({
        hostOffset: hostOffset(8192 + part * 2048 + (i % 20) * 64),
        bytes: new Uint8Array(64).fill(i + 1),
      }));
      guest.engine.submit(change({ hostWrites }));
      if (guest.engine.isBacklogged) await guest.flush();
    }
    await guest.flush();
    const records = recordsOf(device);
    expect(records.length).toBeGreaterThan(1);
    const newest = new PatchMap();
    for (const { descriptors } of records) {
      const here = new PatchMap();
      for (const descriptor of descriptors) {
        if (descriptor.type === 'inline-write') here.set(descriptor.hostOffset, descriptor.bytes);
      }
      newest.merge(here);
      for (let place = 0; place < 20; place++) {
        const parts = [0, 1, 2].map((part) => {
          const into = new Uint8Array(64);
          here.apply(8192 + part * 2048 + place * 64, into);
          return into;
        });
        expect(parts[1]).toEqual(parts[0]);
        expect(parts[2]).toEqual(parts[0]);
      }
    }
    for (let place = 0; place < 20; place++) {
      const into = new Uint8Array(64);
      newest.apply(8192 + place * 64, into);
      expect(into[0]).toBe(40 + place + 1);
    }
  });

  it('[JRN-WB-007] a settled range goes through the last record that the bytes in place can hold', async () => {
    const { guest, device, memory } = await fresh();
    guest.write(0, sector(1));
    await guest.flush();
    const settled = [{ guestOffset: guestOffset(0), lengthBytes: sectorBytes }];
    guest.engine.submit({ settled, required: false, afterData: true });
    // A newer guest write of the same sector, in a record before the one that the settled range waits for.
    guest.write(0, sector(2));
    await guest.flush();
    await guest.flush();
    guest.write(1, sector(3));
    await guest.flush();
    const found = recordsOf(device).flatMap(({ sequence, descriptors }) =>
      descriptors.flatMap((each) => (each.type === 'guest-settled' ? [{ sequence, ...each }] : [])),
    );
    expect(found).toHaveLength(1);
    expect(found[0]!.throughSequence).toBe(1);
    expect(found[0]!.sequence).toBeGreaterThan(2);
    const reopened = await SectorGuest.open(memory.clone(), random(3));
    expect(await reopened.read(0)).toEqual(sector(2));
  });
});

describe('a revoke', () => {
  const at = hostOffset(8192);
  const old = new Uint8Array(8).fill(1);

  it('[JRN-COMMIT-008] ends what an earlier record of the same flush writes there', async () => {
    const { guest, memory } = await fresh();
    guest.engine.submit(change({ hostWrites: [{ hostOffset: at, bytes: old }] }));
    // So much that the revoke comes into another record.
    for (let i = 0; i < 16; i++) {
      const bytes = new Uint8Array(1000).fill(9);
      guest.engine.submit(change({ hostWrites: [{ hostOffset: hostOffset(9216 + i * 1024), bytes }] }));
    }
    let released = false;
    guest.engine.submit(
      change({
        revokes: [{ hostOffset: at, lengthBytes: 1024 }],
        onDurable: () => {
          released = true;
        },
      }),
    );
    await guest.flush();
    expect(guest.engine.counters.records).toBeGreaterThan(1);
    expect(released).toBe(true);
    const seen = new Uint8Array(8);
    guest.engine.patch(at, seen);
    expect(seen).toEqual(new Uint8Array(8));
    const owner = new Uint8Array(sectorBytes).fill(0xaa);
    memory.write(at, owner);
    await guest.quiesce();
    const now = new Uint8Array(sectorBytes);
    memory.read(at, now);
    expect(now).toEqual(owner);
  });

  it('[JRN-COMMIT-008] ends what a round of write-back under way has not written yet', async () => {
    const map = new PatchMap();
    map.set(0, old);
    map.set(4096, old);
    map.set(8192, old);
    const runs = map.runs();
    expect(runs.next().value?.offset).toBe(0);
    map.delete(4096, 512);
    expect(runs.next().value?.offset).toBe(8192);
    expect(runs.next().done).toBe(true);
  });
});

describe('a failure', () => {
  it.each(['journal_append', 'journal_flush'] as const)(
    '[JRN-FAIL-001] of %s is heard by all who wait, and ends all writing',
    async (event) => {
      const { guest, faulty } = await fresh({ delayed: true });
      guest.write(0, sector(1));
      await guest.flush();
      faulty.addRule({ event, fault: { kind: 'fail' } });
      guest.write(1, sector(2));
      const waiting = Array.from({ length: 3 }, () => Promise.resolve().then(() => guest.flush()));
      const outcomes = await Promise.allSettled(waiting);
      expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
      expect(() => guest.count(0, 1n)).toThrow(expect.objectContaining({ code: 'FAILED_EARLIER' }));
      await expect(async () => guest.flush()).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
      await expect(async () => guest.quiesce()).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
    },
  );

  it('[JRN-FAIL-002] of a flush is not made good by the next', async () => {
    const { guest, device, faulty } = await fresh({ delayed: true });
    guest.write(0, sector(1));
    faulty.addRule({ event: 'journal_flush', fault: { kind: 'fail' } });
    await expect(async () => guest.flush()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
    const before = device.log.length;
    await expect(async () => guest.flush()).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
    expect(device.log).toHaveLength(before);
  });
});

describe('quiesce', () => {
  it('[JRN-WB-009] brings all in place, empties the log, and then clears the dirty bit, each durable before the next', async () => {
    const { guest, device, memory } = await fresh();
    guest.write(3, sector(7));
    guest.count(5, 77n);
    await guest.flush();
    const from = device.log.length;
    await guest.quiesce();
    const events = device.log.slice(from).map(({ kind, event }) => (kind === 'flush' ? 'flush' : event));
    const last = events.lastIndexOf('journal_slot');
    expect(events.slice(last - 1)).toEqual(['flush', 'journal_slot', 'flush', 'dirty_bit', 'flush']);
    expect(events.indexOf('journal_write_back')).toBeLessThan(last);
    expect(await guest.counter(5)).toBe(77n);
    const flag = new Uint8Array(1);
    memory.read(0, flag);
    expect(flag[0]).toBe(0);
    expect(guest.engine.use).toMatchObject({ usedBytes: 0, dirty: false });
  });

  it('writes nothing where there is nothing to do', async () => {
    const { guest, device } = await fresh();
    await guest.quiesce();
    const before = device.log.length;
    await guest.quiesce();
    expect(device.log).toHaveLength(before);
  });
});
