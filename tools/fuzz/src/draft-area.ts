/**
 * Mutations of a journal of the draft of 2013: its header, descriptor blocks and what they hold; blocks in each other's
 * places. `seal` makes the additive checksums right again.
 */
import { draftChecksum, peekDraftBlock } from '@qcow2/codec/journal/draft-2013';
import {
  draftCopyChunkLayout,
  draftDescriptorBlockLayout,
  draftDescriptorHeadLayout,
  draftJournalHeaderLayout,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
  type Layout,
} from '@qcow2/spec';
import type { GuardedDevice } from './guarded-device.ts';
import type { Random } from './random.ts';
import { mutateBytes, mutateField, put } from './values.ts';

const chunkLayouts = new Map<number, Layout>([
  [1, draftWriteChunkLayout],
  [2, draftCopyChunkLayout],
  [3, draftRevokeRangeLayout],
]);

export interface DraftAreaPlace {
  readonly hostOffset: number;
  readonly blockBytes: number;
  /** Blocks behind the header. */
  readonly ringBlocks: number;
}

export class DraftMutator {
  readonly #device: GuardedDevice;
  readonly #place: DraftAreaPlace;
  readonly #hints: readonly number[];
  /** Descriptor blocks of the sound base, by index in the ring. */
  readonly blocks: readonly number[];

  constructor(device: GuardedDevice, place: DraftAreaPlace, hints: readonly number[]) {
    this.#device = device;
    this.#place = place;
    const { hostOffset, blockBytes, ringBlocks } = place;
    const sizes = [blockBytes, ringBlocks, ringBlocks - 1, ringBlocks + 1, ringBlocks * blockBytes];
    this.#hints = [...hints, ...sizes, hostOffset, 65536];
    this.blocks = Array.from({ length: ringBlocks }, (_, index) => index + 1).filter(
      (index) => peekDraftBlock(this.#block(index)) !== undefined,
    );
  }

  mutate(random: Random): void {
    const { hostOffset, blockBytes } = this.#place;
    const device = this.#device;
    if (random.chance(6)) {
      device.touch(hostOffset, blockBytes);
      const header = device.bytes.subarray(hostOffset, hostOffset + blockBytes);
      mutateField(header, 0, draftJournalHeaderLayout, random, this.#hints);
      return;
    }
    const index = random.pick(this.blocks);
    device.touch(hostOffset + index * blockBytes, blockBytes);
    const block = this.#block(index);
    switch (random.below(9)) {
      case 0:
      case 1:
      case 2:
        mutateField(block, 0, draftDescriptorBlockLayout, random, this.#hints);
        break;
      case 3:
        mutateBytes(block, random);
        break;
      case 4:
        // A whole block stands where another one stood.
        block.set(this.#block(random.pick(this.blocks)).slice());
        break;
      default:
        mutateDescriptor(block, random, this.#hints);
    }
  }

  seal(random: Random): void {
    const { hostOffset, blockBytes, ringBlocks } = this.#place;
    if (random.chance(8)) return;
    this.#device.touch(hostOffset, blockBytes);
    const header = this.#device.bytes.subarray(hostOffset, hostOffset + blockBytes);
    put(header, 28, 4, BigInt(draftChecksum([header], 28)));
    for (const index of this.blocks) {
      const block = this.#block(index);
      const count = Math.min(peekDraftBlock(block)?.dataBlockCount ?? 0, ringBlocks - 1, 64);
      const pieces = Array.from({ length: 1 + count }, (_, at) =>
        this.#block(((index - 1 + at) % ringBlocks) + 1),
      );
      this.#device.touch(hostOffset + index * blockBytes, blockBytes);
      put(block, 4, 4, BigInt(draftChecksum(pieces, 4)));
    }
  }

  #block(index: number): Uint8Array {
    const { hostOffset, blockBytes } = this.#place;
    const at = hostOffset + index * blockBytes;
    return this.#device.bytes.subarray(at, at + blockBytes);
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
