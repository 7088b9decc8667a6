/** The tables of an image in memory, for tests that damage them. */
import { MemoryDevice } from '@qcow2/block-device';
import { decodeHeader, readEntryOffset, refcountCodec } from '@qcow2/codec';
import { createImage, type JournalOptions, openImage } from '../../src/index.ts';
import { random } from './random.ts';

/** A device that outlives the image on it. */
export class Kept extends MemoryDevice {
  override close(): void {
    // The next image opens on it.
  }

  static from(bytes: Uint8Array): Kept {
    const device = new Kept({ sizeBytes: bytes.length });
    device.write(0, bytes);
    return device;
  }
}

export interface Made {
  readonly bytes: Uint8Array;
  readonly content: Uint8Array;
}

export interface MadeOptions {
  readonly clusterBytes: number;
  readonly refcountBits?: number;
  readonly sizeBytes?: number;
  readonly journal?: JournalOptions;
  readonly seed?: number;
}

/** An image with clusters in use here and there, closed cleanly, and what the guest sees. */
export async function madeImage(options: MadeOptions): Promise<Made> {
  const { clusterBytes, refcountBits = 16, sizeBytes = 1024 * 1024, journal, seed = 1 } = options;
  const device = new Kept();
  await createImage(device, { sizeBytes, clusterBytes, refcountBits, ...(journal && { journal }) });
  const image = await openImage(device);
  const content = new Uint8Array(sizeBytes);
  const rng = random(seed);
  for (let i = 0; i < 40; i++) {
    const offset = rng.below(sizeBytes / 512 - 20) * 512;
    const bytes = new Uint8Array(512 * (1 + rng.below(20))).fill(1 + i);
    await image.write(offset, bytes);
    content.set(bytes, offset);
  }
  await image.close();
  return { bytes: device.snapshot(), content };
}

/** Where things stand in an image that is sound. Offsets of entries, not what they say. */
export class ImageBytes {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly header: ReturnType<typeof decodeHeader>;
  readonly clusterBytes: number;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.header = decodeHeader(bytes.slice(0, 65536));
    this.clusterBytes = 2 ** this.header.clusterBits;
  }

  get(at: number): bigint {
    return this.view.getBigUint64(at);
  }

  set(at: number, value: bigint): void {
    this.view.setBigUint64(at, value);
  }

  flip(at: number, mask: bigint): void {
    this.set(at, this.get(at) ^ mask);
  }

  target(at: number): number {
    return readEntryOffset(this.view, at);
  }

  /** L1 entries that name a table. */
  l1(): number[] {
    const { l1Offset, l1Entries } = this.header;
    return Array.from({ length: l1Entries }, (_, i) => l1Offset + i * 8).filter(
      (at) => this.target(at) !== 0,
    );
  }

  /** L2 entries that name a cluster. */
  l2(): number[] {
    return this.l1().flatMap((l1) =>
      Array.from({ length: this.clusterBytes / 8 }, (_, i) => this.target(l1) + i * 8).filter(
        (at) => this.target(at) !== 0,
      ),
    );
  }

  /** Refcount table entries that name a block. */
  blocks(): number[] {
    const { refcountTableOffset, refcountTableClusters } = this.header;
    const count = (refcountTableClusters * this.clusterBytes) / 8;
    return Array.from({ length: count }, (_, i) => refcountTableOffset + i * 8).filter(
      (at) => this.get(at) !== 0n,
    );
  }

  setRefcount(cluster: number, value: number): void {
    const codec = refcountCodec(this.header.refcountOrder);
    const perBlock = codec.entriesPerBlock(this.clusterBytes);
    const entry = this.header.refcountTableOffset + Math.floor(cluster / perBlock) * 8;
    const block = Number(this.get(entry));
    codec.set(new DataView(this.bytes.buffer, this.bytes.byteOffset + block), cluster % perBlock, value);
  }
}
