/** The draft's engine on a device that is written down: what is written when, and what waits for which flush. */
import { MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { decodeDraftTransaction, peekDraftBlock } from '@qcow2/codec/journal/draft-2013';
import { hostOffset, StorageError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  type DraftArea,
  DraftEngine,
  type DraftEngineOptions,
  formatDraftArea,
  lastSynced,
  type Microtransaction,
  readDraftArea,
  recoverDraftLog,
  replayDraftLog,
} from '../../src/index.ts';
import { DraftCopier } from '../support/draft-copier.ts';

const journalAt = 65536;
const blockBytes = 512;

interface Bench {
  readonly memory: MemoryDevice;
  readonly device: RecordingDevice;
  readonly engine: DraftEngine;
  readonly copier: DraftCopier;
  readonly acts: string[];
}

/** An engine on a new journal of so many blocks behind its header. */
async function bench(ringBlocks: number, options: Partial<DraftEngineOptions> = {}): Promise<Bench> {
  const lengthBytes = (ringBlocks + 1) * blockBytes;
  const memory = new MemoryDevice({ sizeBytes: journalAt + lengthBytes });
  await run(formatDraftArea(memory, { hostOffset: journalAt, lengthBytes }, blockBytes));
  return await open(memory, options);
}

async function open(memory: MemoryDevice, options: Partial<DraftEngineOptions> = {}): Promise<Bench> {
  const device = new RecordingDevice(memory);
  const acts: string[] = [];
  const area = await run(readDraftArea(memory, journalAt, 4096));
  const copier = new DraftCopier(device, (act) => acts.push(act));
  const last = await run(lastSynced(memory, area));
  const engine = new DraftEngine({ device, area, client: copier, last, ...options });
  return { memory, device, acts, copier, engine };
}

function write(at: number, ...bytes: number[]): Microtransaction {
  return {
    hostWrites: [{ hostOffset: hostOffset(at), bytes: Uint8Array.from(bytes) }],
    required: true,
    afterData: false,
  };
}

function areaOf(memory: MemoryDevice): Promise<DraftArea> | DraftArea {
  return run(readDraftArea(memory, journalAt, 4096));
}

async function at(memory: MemoryDevice, offset: number, length = 1): Promise<number[]> {
  const into = new Uint8Array(length);
  memory.read(offset, into);
  return [...into];
}

const events = ({ device }: Bench): string[] => device.log.map(({ kind, event }) => `${kind} ${event}`);

describe('a commit', () => {
  it('[JD13-TXN-001, JD13-HDR-011] appends, flushes, writes one sector of the header, flushes', async () => {
    const it = await bench(32);
    it.engine.submit(write(100, 1, 2, 3));
    await run(it.engine.commit());
    expect(events(it)).toEqual([
      'write journal_append',
      'flush journal_flush',
      'write journal_header',
      'flush journal_flush',
    ]);
    const header = it.device.log[2]!;
    expect(header).toMatchObject({ offset: journalAt, bytes: { length: 512 } });
    expect((await areaOf(it.memory)).header.committedSequence).toBe(1);
    expect(await at(it.memory, 100, 3)).toEqual([0, 0, 0]);
  });

  it('[JD13-RING-005] ends the chain with a block of zeros, also where the ring wraps', async () => {
    const it = await bench(32, { writeBackAt: 0.01 });
    for (let i = 0; i < 60; i++) {
      it.engine.submit(write(8 * i, i + 1));
      await run(it.engine.commit());
      const { ring } = await areaOf(it.memory);
      const appended = it.device.log.findLast(({ event }) => event === 'journal_append')!;
      const end = appended.kind === 'write' ? appended.offset + appended.bytes.length : 0;
      const zeros = await at(it.memory, end - ring.blockBytes, ring.blockBytes);
      expect(zeros.every((byte) => byte === 0)).toBe(true);
    }
    await run(it.engine.quiesce());
    for (let i = 0; i < 60; i++) expect(await at(it.memory, 8 * i)).toEqual([i + 1]);
  });

  it('costs one flush where nothing is to be logged', async () => {
    const it = await bench(32);
    it.engine.noteDeviceWrite();
    await run(it.engine.commit());
    await run(it.engine.commit());
    expect(events(it)).toEqual(['flush flush_data']);
  });

  it('[JD13-TXN-007] makes the dirty bit durable with the blocks, before the header', async () => {
    const it = await bench(32);
    it.engine.submit(write(100, 1));
    await run(it.engine.commit());
    expect(it.acts).toEqual(['dirty', 'flush', 'flush']);
  });

  it('[JD13-TXN-006] of many transactions is committed by one header', async () => {
    const it = await bench(600);
    for (let i = 0; i < 100; i++) it.engine.submit(write(16 * i, i + 1));
    await run(it.engine.commit());
    expect(it.engine.counters).toMatchObject({ headerWrites: 1, flushes: 2, commits: 1 });
    expect(it.engine.counters.transactions).toBeGreaterThan(3);
    const found = await run(recoverDraftLog(it.memory, await areaOf(it.memory)));
    expect(found.transactions).toBe(it.engine.counters.transactions);
    expect(found.effects.writes.setBytes).toBe(100);
  });

  it('[JD13-TXN-010] comes by itself when so many bytes wait, and carries what no flush asks for', async () => {
    const it = await bench(600, { commitDataBytes: 32 });
    it.engine.submit({ ...write(0, ...new Array(31).fill(1)), required: false });
    expect(it.engine.isBacklogged).toBe(false);
    it.engine.submit({ ...write(64, 1), required: false });
    expect(it.engine.isBacklogged).toBe(true);
    await run(it.engine.commit());
    expect(it.engine.isBacklogged).toBe(false);
    expect(it.engine.hasQueued).toBe(false);
  });
});

describe('execution in place', () => {
  it('[JD13-TXN-002, JD13-TXN-004, JD13-TXN-008] follows the commit and is flushed before the header calls it synced', async () => {
    const it = await bench(40, { writeBackAt: 0.1 });
    let committed = 0;
    for (let i = 0; i < 50; i++) {
      it.engine.submit(write(8 * i, i + 1));
      const before = it.device.log.length;
      await run(it.engine.commit());
      for (const operation of it.device.log.slice(before)) {
        // What is written in place was committed by an earlier commit.
        if (operation.event === 'journal_write_back' && operation.kind === 'write') {
          expect(operation.offset / 8).toBeLessThan(committed);
        }
      }
      committed = i + 1;
      const { header } = await areaOf(it.memory);
      for (let done = 0; done < header.syncedSequence; done++) {
        const inPlace = it.device.log.findIndex(
          (operation) =>
            operation.event === 'journal_write_back' &&
            operation.kind === 'write' &&
            operation.offset <= 8 * done &&
            operation.offset + operation.bytes.length > 8 * done,
        );
        const headerAt = it.device.log.findLastIndex(({ event }) => event === 'journal_header');
        const flush = it.device.log.findIndex(({ kind }, index) => kind === 'flush' && index > inPlace);
        expect(inPlace).toBeGreaterThanOrEqual(0);
        expect(flush).toBeLessThan(headerAt);
      }
      if (header.syncedIndex === 0) continue;
      // The chain begins at a transaction that still stands.
      const block = new Uint8Array(
        await at(it.memory, journalAt + header.syncedIndex * blockBytes, blockBytes),
      );
      expect(peekDraftBlock(block)?.sequence).toBe(header.syncedSequence);
    }
    expect((await areaOf(it.memory)).header.syncedSequence).toBeGreaterThan(20);
  });

  it('[JD13-TXN-009] is whole, and retired, before the image is called clean', async () => {
    const it = await bench(32);
    it.engine.submit(write(100, 9));
    await run(it.engine.commit());
    await run(it.engine.quiesce());
    expect(events(it).slice(4)).toEqual([
      'write journal_write_back',
      'flush flush_data',
      'write journal_header',
      'flush journal_flush',
    ]);
    expect(it.acts.at(-1)).toBe('clean');
    const { header } = await areaOf(it.memory);
    expect(header.syncedSequence).toBe(header.committedSequence);
  });

  it('[JD13-DESC-007] leaves alone what a later transaction revokes', async () => {
    const it = await bench(32);
    it.engine.submit(write(100, 1, 1, 1));
    await run(it.engine.commit());
    it.engine.submit({
      revokes: [{ hostOffset: hostOffset(101), lengthBytes: 1 }],
      required: true,
      afterData: false,
    });
    await run(it.engine.commit());
    it.memory.write(101, Uint8Array.of(7));
    await run(it.engine.quiesce());
    expect(await at(it.memory, 100, 3)).toEqual([1, 7, 1]);
  });
});

describe('copies', () => {
  const copy = { targetHostOffset: 8192, sourceHostOffset: 4096, lengthBytes: 1024 };

  it('[JD13-DESC-006, JD13-DESC-013] are logged, and live until the header that passed them is durable', async () => {
    const it = await bench(32);
    it.memory.write(4096, new Uint8Array(1024).fill(5));
    it.copier.submit(it.engine, copy);
    await run(it.engine.commit());
    expect(await at(it.memory, 8192, 1024)).toEqual(new Array(1024).fill(0));
    const recovered = it.memory.clone();
    await run(replayDraftLog(recovered, await areaOf(recovered)));
    expect(await at(recovered, 8192, 1024)).toEqual(new Array(1024).fill(5));
    const synced: number[] = [];
    const flush = it.device.flush.bind(it.device);
    it.device.flush = (options) => {
      const done = flush(options);
      // Told of no earlier than the flush that makes the header durable has completed.
      if (it.copier.live.size > 0) synced.push(it.device.log.length);
      return done;
    };
    await run(it.engine.quiesce());
    expect(it.copier.live.size).toBe(0);
    expect(events(it).slice(4)).toEqual([
      'write cow_write',
      'flush flush_data',
      'write journal_header',
      'flush journal_flush',
    ]);
    expect(synced).toHaveLength(2);
    expect(await at(it.memory, 8192, 1024)).toEqual(new Array(1024).fill(5));
  });

  it('[JD13-TXN-008] are made in rounds, in steps, and only when they are committed', async () => {
    const it = await bench(64, { writeBackAt: 0.05 });
    it.memory.write(4096, new Uint8Array(1024).fill(5));
    it.copier.submit(it.engine, copy);
    await run(it.engine.commit());
    for (let i = 0; it.copier.live.size > 0; i++) {
      expect(i).toBeLessThan(40);
      it.engine.submit(write(8 * i, i + 1));
      await run(it.engine.commit());
      const recovered = it.memory.clone();
      await run(replayDraftLog(recovered, await areaOf(recovered)));
      expect(await at(recovered, 8192, 1024)).toEqual(new Array(1024).fill(5));
    }
    const committedAt = it.device.log.findIndex(({ event }) => event === 'journal_header') + 1;
    const madeAt = it.device.log.findIndex(({ event }) => event === 'cow_write');
    expect(it.device.log[committedAt]).toMatchObject({ kind: 'flush' });
    expect(madeAt).toBeGreaterThan(committedAt);
    expect(it.engine.counters.copiedBytes).toBe(1024);
    expect(await at(it.memory, 8192, 1024)).toEqual(new Array(1024).fill(5));
  });

  it('[JD13-DESC-016] do not come over what was written to their target and revoked, in no replay', async () => {
    const it = await bench(32);
    it.memory.write(4096, new Uint8Array(1024).fill(5));
    it.copier.submit(it.engine, copy);
    await run(it.engine.commit());
    it.copier.forget(copy);
    it.memory.write(8192, new Uint8Array(1024).fill(6));
    it.engine.noteDeviceWrite();
    it.engine.submit({
      revokes: [{ hostOffset: hostOffset(8192), lengthBytes: 512 }],
      required: true,
      afterData: true,
    });
    await run(it.engine.commit());
    const recovered = it.memory.clone();
    await run(replayDraftLog(recovered, await areaOf(recovered)));
    expect(await at(recovered, 8191 + 512, 2)).toEqual([6, 5]);
    await run(it.engine.quiesce());
    expect(await at(it.memory, 8191 + 512, 2)).toEqual([6, 6]);
  });

  it('[JD13-DESC-012, JD13-DESC-018] in thousands are resolved by a reader, whose costs follow what they copy', async () => {
    const it = await bench(2000);
    // Many places written, none of which is copied from; and as many copies as a writer may keep live.
    for (let i = 0; i < 500; i++) it.engine.submit(write(3 * 2 ** 19 + 64 * i, 1));
    for (let i = 0; i < 4096; i++) {
      it.copier.submit(it.engine, {
        targetHostOffset: 2 ** 22 + 1024 * i,
        sourceHostOffset: 2 ** 21,
        lengthBytes: 512,
      });
    }
    it.memory.resize(2 ** 22 + 1024 * 4096);
    it.memory.write(2 ** 21, new Uint8Array(512).fill(5));
    await run(it.engine.commit());
    const { effects } = await run(recoverDraftLog(it.memory, await areaOf(it.memory)));
    expect(effects.copies.count).toBe(4096);
    await run(replayDraftLog(it.memory, await areaOf(it.memory)));
    expect(await at(it.memory, 2 ** 22 + 1024 * 4095 + 511, 2)).toEqual([5, 0]);
  });
});

describe('the ring', () => {
  it('of seven blocks carries any number of commits; sequences go on past 2^32', async () => {
    const first = await bench(7);
    // A journal whose next transaction is 2^32 - 3.
    const { header } = await areaOf(first.memory);
    const { encodeDraftHeader } = await import('@qcow2/codec/journal/draft-2013');
    const late = { ...header, syncedSequence: 2 ** 32 - 4, committedSequence: 2 ** 32 - 4 };
    first.memory.write(journalAt, encodeDraftHeader(late));
    const it = await open(first.memory);
    for (let i = 0; i < 20; i++) {
      it.engine.submit({
        hostWrites: [0, 1, 2].map((part) => ({
          hostOffset: hostOffset(1024 * part + i),
          bytes: Uint8Array.of(i + 1),
        })),
        required: true,
        afterData: false,
      });
      await run(it.engine.commit());
      const recovered = it.memory.clone();
      await run(replayDraftLog(recovered, await areaOf(recovered)));
      for (let done = 0; done <= i; done++) expect(await at(recovered, 2048 + done)).toEqual([done + 1]);
    }
    expect(it.engine.use.committedSequence).toBeLessThan(100);
  });
});

/** What was flushed before an operation of the log, and then all that was not but what is left out. */
function crashed(before: MemoryDevice, log: Bench['device']['log'], end: number, lost: string): MemoryDevice {
  const image = before.clone();
  const flushed = log.slice(0, end).findLastIndex(({ kind }) => kind === 'flush');
  for (const [index, operation] of log.slice(0, end).entries()) {
    if (operation.kind !== 'write' || (index > flushed && operation.event === lost)) continue;
    image.write(operation.offset, operation.bytes);
  }
  return image;
}

describe('a crash', () => {
  for (const ringBlocks of [7, 13, 40]) {
    for (const lost of ['journal_header', 'journal_write_back', 'journal_append', 'nothing']) {
      it(`[JD13-TXN-002, JD13-TXN-004] that loses ${lost} finds a chain in a ring of ${ringBlocks} blocks that is written full again and again`, async () => {
        const it = await bench(ringBlocks, { writeBackAt: 1 });
        const before = it.memory.clone();
        const durable: number[] = [];
        for (let i = 0; i < 16; i++) {
          // As many places as change in each commit move on through the ring at a pace of their own.
          for (let part = 0; part < 1 + (i % 3); part++) it.engine.submit(write(1024 * part + i, i + 1));
          await run(it.engine.commit());
          durable.push(it.device.log.length);
        }
        for (let end = 0; end <= it.device.log.length; end++) {
          const image = crashed(before, it.device.log, end, lost);
          await run(replayDraftLog(image, await areaOf(image)));
          for (const [i, committedAt] of durable.entries()) {
            if (committedAt > end) break;
            for (let part = 0; part < 1 + (i % 3); part++) {
              expect(await at(image, 1024 * part + i)).toEqual([i + 1]);
            }
          }
        }
      });
    }
  }
});

describe('a failure', () => {
  it('ends writing: who waits is told, later calls are refused, nothing is written any more', async () => {
    const it = await bench(32);
    const failing = new StorageError('FLUSH_FAILED', 'for the test');
    it.device.flush = () => {
      throw failing;
    };
    it.engine.submit(write(100, 1));
    expect(() => run(it.engine.commit())).toThrow(failing);
    const writes = it.device.log.length;
    expect(() => it.engine.submit(write(100, 1))).toThrow('FLUSH_FAILED');
    expect(() => run(it.engine.commit())).toThrow('FLUSH_FAILED');
    expect(() => run(it.engine.quiesce())).toThrow('FLUSH_FAILED');
    expect(it.device.log.length).toBe(writes);
    expect((await areaOf(it.memory)).header.committedSequence).toBe(0);
  });
});

describe('what is on disk', () => {
  it('is what the codec reads back', async () => {
    const it = await bench(32);
    it.engine.submit({
      ...write(100, 1, 2),
      revokes: [{ hostOffset: hostOffset(300), lengthBytes: 4 }],
      copies: [{ targetHostOffset: 8192, sourceHostOffset: 4096, lengthBytes: 512 }],
    });
    await run(it.engine.commit());
    const bytes = new Uint8Array(await at(it.memory, journalAt + blockBytes, 2 * blockBytes));
    const place = { hostOffset: 0, blockBytes, ringBlocks: 32, blockIndex: 1 };
    expect(decodeDraftTransaction(bytes, place)).toMatchObject({
      sequence: 1,
      descriptors: [{ type: 'revoke' }, { type: 'copy-data' }, { type: 'write-data' }],
    });
  });
});
