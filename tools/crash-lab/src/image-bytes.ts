/**
 * The tables of an image that lies whole in memory, for who changes them by hand: images are tiny here. They are found by the offsets
 * of entries alone, whatever else an entry says, so that a damaged image can be damaged further.
 */
import {
  decodeDraftImageHeader,
  decodeHeader,
  l2EntryBytes,
  l2FormatOf,
  peekDraftBinding,
  type Qcow2Header,
  type RefcountCodec,
  readEntryOffset,
  readRefcountBlockOffset,
  refcountCodec,
} from '@qcow2/codec';
import { InvariantError } from '@qcow2/spec';

export class ImageBytes {
  bytes: Uint8Array<ArrayBuffer>;
  readonly header: Qcow2Header;
  readonly clusterBytes: number;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
    this.header = peekDraftBinding(bytes) === undefined ? decodeHeader(bytes) : decodeDraftImageHeader(bytes);
    this.clusterBytes = 2 ** this.header.clusterBits;
  }

  get view(): DataView {
    return new DataView(this.bytes.buffer);
  }

  count(cluster: number, change: number): void {
    const refcount = this.refcount(cluster);
    if (refcount === undefined) {
      throw new InvariantError('no refcount block covers the cluster', { value: cluster });
    }
    this.setRefcount(cluster, refcount + change);
  }

  /** Undefined where no block counts it. */
  refcount(cluster: number): number | undefined {
    const place = this.#refcountPlace(cluster);
    return place?.codec.get(place.block, place.index);
  }

  /** Does nothing where no block counts it. */
  setRefcount(cluster: number, refcount: number): void {
    const place = this.#refcountPlace(cluster);
    place?.codec.set(place.block, place.index, refcount);
  }

  #refcountPlace(
    cluster: number,
  ): { readonly codec: RefcountCodec; readonly block: DataView; readonly index: number } | undefined {
    const codec = refcountCodec(this.header.refcountOrder);
    const perBlock = codec.entriesPerBlock(this.clusterBytes);
    const entry = this.header.refcountTableOffset + Math.floor(cluster / perBlock) * 8;
    const at = readRefcountBlockOffset(this.view, entry);
    if (at === 0) return undefined;
    return {
      codec,
      block: new DataView(this.bytes.buffer, at, this.clusterBytes),
      index: cluster % perBlock,
    };
  }

  /** A cluster behind all others, with a reference. */
  append(content: Uint8Array): number {
    const cluster = Math.ceil(this.bytes.length / this.clusterBytes);
    const longer = new Uint8Array((cluster + 1) * this.clusterBytes);
    longer.set(this.bytes);
    longer.set(content, cluster * this.clusterBytes);
    this.bytes = longer;
    this.count(cluster, 1);
    return cluster * this.clusterBytes;
  }

  /** Positions of the entries of all L2 tables below an L1 table, with the guest cluster of each. */
  *entries(l1Offset: number, l1Entries: number): Generator<{ guestCluster: number; at: number }> {
    const entryBytes = l2EntryBytes(l2FormatOf(this.header));
    const perTable = this.clusterBytes / entryBytes;
    for (let index = 0; index < l1Entries; index++) {
      const table = readEntryOffset(this.view, l1Offset + index * 8);
      for (let entry = 0; table !== 0 && entry < perTable; entry++) {
        yield { guestCluster: index * perTable + entry, at: table + entry * entryBytes };
      }
    }
  }

  entryAt(guestCluster: number): number {
    for (const entry of this.entries(this.header.l1Offset, this.header.l1Entries)) {
      if (entry.guestCluster === guestCluster) return entry.at;
    }
    throw new InvariantError('a cluster that is to be shared has no L2 table', { value: guestCluster });
  }
}
