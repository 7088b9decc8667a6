/**
 * The draft's journal through its codec: the journal header and one transaction after another, damaged, their additive
 * checksums made right again.
 */
import {
  type DraftDescriptor,
  decodeDraftHeader,
  decodeDraftTransaction,
  draftChecksum,
  draftChunkBytes,
  draftGeometry,
  draftReplayCount,
  encodeDraftHeader,
  encodeDraftTransaction,
  peekDraftBlock,
} from '@qcow2/codec/journal/draft-2013';
import {
  draftCopyChunkLayout,
  draftDescriptorBlockLayout,
  draftDescriptorHeadLayout,
  draftJournalHeaderLayout,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
  hostOffset,
  type Layout,
} from '@qcow2/spec';
import { GuardedDevice } from '../guarded-device.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { mutateBytes, mutateField, put } from '../values.ts';

const chunkLayouts = new Map<number, Layout>([
  [1, draftWriteChunkLayout],
  [2, draftCopyChunkLayout],
  [3, draftRevokeRangeLayout],
]);

interface Loaded {
  readonly device: GuardedDevice;
  readonly blockBytes: number;
  readonly ringBlocks: number;
  /** Descriptor blocks of the sound base. */
  readonly blocks: readonly number[];
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
    const { device, blockBytes, ringBlocks, blocks } = this.#now!;
    const hints = [blockBytes, ringBlocks, ringBlocks - 1, ringBlocks + 1, ringBlocks * blockBytes, 65536];
    if (random.chance(6)) {
      device.touch(0, blockBytes);
      mutateField(device.bytes, 0, draftJournalHeaderLayout, random, hints);
      return;
    }
    const at = random.pick(blocks) * blockBytes;
    device.touch(at, blockBytes);
    const block = device.bytes.subarray(at, at + blockBytes);
    if (random.chance(3)) {
      mutateField(block, 0, draftDescriptorBlockLayout, random, hints);
      return;
    }
    if (random.chance(6)) {
      mutateBytes(block, random);
      return;
    }
    if (random.chance(6)) {
      // A whole block stands where another one stood.
      const from = random.pick(blocks) * blockBytes;
      block.set(device.bytes.slice(from, from + blockBytes));
      return;
    }
    mutateDescriptor(block, random, hints);
  }

  seal(random: Random): void {
    const { device, blockBytes, blocks } = this.#now!;
    if (random.chance(8)) return;
    device.touch(0, blockBytes);
    put(device.bytes, 28, 4, BigInt(draftChecksum([device.bytes.subarray(0, blockBytes)], 28)));
    for (const index of blocks) {
      const at = index * blockBytes;
      const count = peekDraftBlock(device.bytes.subarray(at, at + blockBytes))?.dataBlockCount ?? 0;
      const end = Math.min(device.sizeBytes, at + (1 + Math.min(count, 64)) * blockBytes);
      device.touch(at, blockBytes);
      put(device.bytes, at + 4, 4, BigInt(draftChecksum([device.bytes.subarray(at, end)], 4)));
    }
  }

  run(_variant: number, verdict: Verdict): void {
    const { device, blocks } = this.#now!;
    const bytes = device.bytes.subarray(0, device.sizeBytes);
    const header = verdict.attempt('header', () =>
      decodeDraftHeader(bytes, { hostOffset: 65536, clusterBytes: 65536 }),
    );
    if (header === undefined) return;
    const geometry = draftGeometry(header);
    verdict.noteCount('replay', draftReplayCount(header));
    for (const index of blocks) {
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

function mutateDescriptor(block: Uint8Array, random: Random, hints: readonly number[]): void {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  const found: number[] = [];
  for (let at = view.getUint32(12); at + 4 <= block.length && found.length < 16; ) {
    found.push(at);
    const size = view.getUint16(at + 2);
    if (size < 4) break;
    at += size;
  }
  if (found.length === 0) {
    mutateBytes(block, random);
    return;
  }
  const at = random.pick(found);
  const layout = chunkLayouts.get(view.getUint16(at));
  if (layout === undefined || random.chance(3)) {
    mutateField(block, at, draftDescriptorHeadLayout, random, hints);
    return;
  }
  mutateField(block, at + 4 + layout.sizeBytes * random.below(2), layout, random, hints);
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
  const blocks: number[] = [];
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
    blocks.push(index);
    index += 1 + dataBlocks;
  }
  return {
    device: new GuardedDevice(bytes, { operations: 100, bytes: 1 << 20 }),
    blockBytes,
    ringBlocks,
    blocks,
  };
}
