/** The draft's engine on devices that fail, and on one that answers late. */
import { MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { hostOffset, StorageError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  DraftEngine,
  formatDraftArea,
  lastSynced,
  type Microtransaction,
  readDraftArea,
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
}

async function bench(ringBlocks: number, writeBackAt: number): Promise<Bench> {
  const lengthBytes = (ringBlocks + 1) * blockBytes;
  const memory = new MemoryDevice({ sizeBytes: journalAt + lengthBytes });
  await run(formatDraftArea(memory, { hostOffset: journalAt, lengthBytes }, blockBytes));
  const area = await run(readDraftArea(memory, journalAt, 4096));
  const device = new RecordingDevice(memory);
  const copier = new DraftCopier(device);
  const last = await run(lastSynced(memory, area));
  const engine = new DraftEngine({ device, area, client: copier, last, writeBackAt });
  return { memory, device, copier, engine };
}

function write(at: number, value: number): Microtransaction {
  return {
    hostWrites: [{ hostOffset: hostOffset(at), bytes: Uint8Array.of(value) }],
    required: true,
    afterData: false,
  };
}

const copy = { targetHostOffset: 8192, sourceHostOffset: 4096, lengthBytes: 512 };

/** What stands there when the journal has been replayed. */
async function recovered(memory: MemoryDevice): Promise<Uint8Array> {
  const image = memory.clone();
  await run(replayDraftLog(image, await run(readDraftArea(image, journalAt, 4096))));
  return image.snapshot();
}

describe('a write that fails', () => {
  const events = ['journal_append', 'journal_header', 'journal_write_back', 'cow_write'];
  for (const event of events) {
    for (const kind of ['none', 'half'] as const) {
      it(`(${event}, ${kind} of it arrived) ends writing, and costs nothing that was committed`, async () => {
        const it = await bench(16, 0.1);
        it.memory.write(4096, new Uint8Array(512).fill(5));
        const below = it.device.write.bind(it.device);
        let failAt = Number.POSITIVE_INFINITY;
        it.device.write = (offset, bytes, options) => {
          if (options?.event !== event || --failAt >= 0) return below(offset, bytes, options);
          // A sector arrives whole or not at all.
          const sectors = Math.floor(bytes.length / 1024) * 512;
          if (kind === 'half' && sectors > 0) it.memory.write(offset, bytes.subarray(0, sectors));
          throw new StorageError('WRITE_FAILED', `${event} failed for the test`);
        };
        const committed: number[] = [];
        let failure: unknown;
        failAt = 2;
        for (let i = 0; i < 40 && failure === undefined; i++) {
          try {
            it.engine.submit(write(8 * i, i + 1));
            if (i % 4 === 0) it.copier.submit(it.engine, { ...copy });
            await run(it.engine.commit());
            committed.push(i);
          } catch (error) {
            failure = error;
          }
        }
        expect(failure).toMatchObject({ code: 'WRITE_FAILED' });
        const operations = it.device.log.length;
        expect(() => it.engine.submit(write(0, 0))).toThrow(
          expect.objectContaining({ code: 'FAILED_EARLIER' }),
        );
        for (const later of [it.engine.commit(), it.engine.quiesce()]) {
          expect(() => run(later)).toThrow(expect.objectContaining({ code: 'FAILED_EARLIER' }));
        }
        expect(it.device.log.length).toBe(operations);
        const image = await recovered(it.memory);
        for (const i of committed) expect(image[8 * i]).toBe(i + 1);
        if (committed.length > 0) expect(image[8192]).toBe(5);
      });
    }
  }
});

describe('a device that answers late', () => {
  it('is waited for, in order, by commits and submissions that come meanwhile; commits share', async () => {
    const it = await bench(24, 0.2);
    const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
    const writeBelow = it.device.write.bind(it.device);
    const flushBelow = it.device.flush.bind(it.device);
    let writesUnderWay = 0;
    it.device.write = async (offset, bytes, options) => {
      writesUnderWay++;
      const sent = bytes.slice();
      await turn();
      await turn();
      // Nobody changes a buffer that he has handed over.
      expect(Buffer.compare(sent, bytes)).toBe(0);
      await writeBelow(offset, bytes, options);
      writesUnderWay--;
    };
    it.device.flush = async (options) => {
      // A flush that began before a write has ended does not cover it.
      expect(writesUnderWay).toBe(0);
      await turn();
      await flushBelow(options);
    };
    const commits: Promise<void>[] = [];
    for (let i = 0; i < 60; i++) {
      it.engine.submit(write(8 * i, i + 1));
      const commit = async () => {
        await run(it.engine.commit());
        const image = await recovered(it.memory);
        for (let done = 0; done <= i; done++) expect(image[8 * done]).toBe(done + 1);
      };
      commits.push(commit());
      if (i % 3 === 0) await turn();
    }
    await Promise.all(commits);
    expect(it.engine.counters.sharedCommits).toBeGreaterThan(0);
    expect(it.engine.counters.rounds).toBeGreaterThan(0);
    await run(it.engine.quiesce());
    for (let i = 0; i < 60; i++) expect(it.memory.snapshot()[8 * i]).toBe(i + 1);
  });
});
