/**
 * The draft's journal through its codec: the journal header and one transaction after another, damaged, their additive
 * checksums made right again.
 */
import {
  type DraftDescriptor,
  decodeDraftHeader,
  decodeDraftTransaction,
  draftChunkBytes,
  draftGeometry,
  draftReplayCount,
  encodeDraftHeader,
  encodeDraftTransaction,
} from '@qcow2/codec/journal/draft-2013';
import { hostOffset } from '@qcow2/spec';
import { DraftMutator } from '../draft-area.ts';
import { GuardedDevice } from '../guarded-device.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';

interface Loaded {
  readonly device: GuardedDevice;
  readonly mutator: DraftMutator;
}

export class DraftTarget implements Target {
  readonly name = 'draft';
  readonly bases = ['blocks-512', 'blocks-1k'];
  readonly limits = { oneBytes: 1 << 17, allBytes: 1 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    this.#loaded.set('blocks-512', makeJournal(512, 40));
    this.#loaded.set('blocks-1k', makeJournal(1024, 12));
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.device.reset();
  }

  mutate(random: Random): void {
    this.#now!.mutator.mutate(random);
  }

  seal(random: Random): void {
    this.#now!.mutator.seal(random);
  }

  run(_variant: number, verdict: Verdict): void {
    const { device, mutator } = this.#now!;
    const bytes = device.bytes.subarray(0, device.sizeBytes);
    const header = verdict.attempt('header', () =>
      decodeDraftHeader(bytes, { hostOffset: 65536, clusterBytes: 65536 }),
    );
    if (header === undefined) return;
    const geometry = draftGeometry(header);
    verdict.noteCount('replay', draftReplayCount(header));
    for (const index of mutator.blocks) {
      const place = { ...geometry, blockIndex: index };
      const at = index * geometry.blockBytes;
      const transaction = verdict.attempt('transaction', () =>
        decodeDraftTransaction(bytes.subarray(at), { ...place, hostOffset: 65536 + at }),
      );
      for (const descriptor of transaction?.descriptors ?? []) {
        verdict.note(descriptor.type);
        if (transaction === undefined || descriptor.type !== 'write-data') continue;
        for (const chunk of descriptor.chunks) {
          const data = verdict.attempt('chunk', () => draftChunkBytes(transaction, chunk, place));
          if (data?.length !== chunk.lengthBytes) verdict.finding('a chunk without all of its bytes');
        }
      }
    }
  }
}

/** A journal with six transactions in a row, each of a few descriptors and data blocks. */
function makeJournal(blockBytes: number, ringBlocks: number): Loaded {
  const bytes = new Uint8Array((1 + ringBlocks) * blockBytes);
  bytes.set(
    encodeDraftHeader({
      journalLengthBytes: bytes.length,
      blockSizeOrder: Math.log2(blockBytes),
      syncedIndex: 0,
      syncedSequence: 0xfffffffd,
      committedSequence: 3,
    }),
  );
  let index = 1;
  for (let count = 0; count < 6 && index + 2 <= ringBlocks; count++) {
    const dataBlocks = Math.min(count % 3, ringBlocks - index);
    const place = { blockBytes, ringBlocks, blockIndex: index };
    const descriptors: DraftDescriptor[] = [
      { type: 'no-op', body: new Uint8Array(count) },
      { type: 'revoke', ranges: [{ lengthBytes: 512, hostOffset: hostOffset(count * 512) }] },
      {
        type: 'copy-data',
        chunks: [
          { lengthBytes: 4096, targetHostOffset: hostOffset(65536), sourceHostOffset: hostOffset(131072) },
          { lengthBytes: 512, targetHostOffset: hostOffset(0), sourceHostOffset: hostOffset(512) },
        ],
      },
      ...(dataBlocks === 0
        ? []
        : [
            {
              type: 'write-data' as const,
              chunks: [
                { lengthBytes: blockBytes, hostOffset: hostOffset(8192), journalBlockIndex: index + 1 },
                { lengthBytes: 8, hostOffset: hostOffset(72), journalBlockIndex: index + dataBlocks },
              ],
            },
          ]),
    ];
    const data = new Uint8Array(dataBlocks * blockBytes).fill(count);
    bytes.set(
      encodeDraftTransaction({ sequence: (0xfffffffe + count) >>> 0, descriptors, data }, place),
      index * blockBytes,
    );
    index += 1 + dataBlocks;
  }
  const device = new GuardedDevice(bytes, { operations: 100, bytes: 1 << 20 });
  return { device, mutator: new DraftMutator(device, { hostOffset: 0, blockBytes, ringBlocks }, []) };
}
