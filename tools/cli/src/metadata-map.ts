/**
 * What a host range belongs to: header fields, entries of the L1 and the refcount table, L2 entries and the guest
 * range that they map, refcounts and the clusters that they count.
 *
 * A log changes the very tables that say so. So the map starts from the image as it stands in its file, and is
 * told of the writes of each record (`note`) before the record's ranges are named: a name holds at that record.
 * A table that moves is read again from its new place, which a writer makes durable before it logs the move.
 *
 * Held are the places of the L2 tables and refcount blocks, which the format's limits bound (an L1 table has at
 * most 32 MiB, a refcount table 8 MiB), and the guest clusters of the L2 entries that the log has written, which its ring
 * bounds. What cannot be believed is left out: then a range is just a range. L2 tables of snapshots are not looked for.
 */
import {
  checkL1Entry,
  checkRefcountTableEntry,
  classifyL2Entry,
  clusterKind,
  decodeDraftImageHeader,
  decodeHeader,
  fieldBytes,
  l2EntriesPerTable,
  l2EntryBytes,
  l2FormatOf,
  type Qcow2Header,
  readEntryOffset,
  readRefcountBlockOffset,
} from '@qcow2/codec';
import { type Field, headerLayout, Qcow2Error } from '@qcow2/spec';

/** A piece of a host range. First and last are inclusive. */
export type Belonging =
  /** `fields` by their names in docs/specs; `extensions` for what follows them in the header's cluster. */
  | { readonly kind: 'header'; readonly fields: readonly string[] }
  | { readonly kind: 'l1-entries'; readonly first: number; readonly last: number }
  | {
      readonly kind: 'l2-entries';
      readonly count: number;
      readonly guestOffset: number;
      readonly lengthBytes: number;
    }
  | { readonly kind: 'refcount-table-entries'; readonly first: number; readonly last: number }
  | { readonly kind: 'refcounts'; readonly firstCluster: number; readonly lastCluster: number }
  | { readonly kind: 'guest-range'; readonly guestOffset: number; readonly lengthBytes: number }
  | { readonly kind: 'host-range'; readonly hostOffset: number; readonly lengthBytes: number };

/** Fill `into` with what stands at the host offset, zeros behind the file's end. */
export type ReadBytes = (hostOffset: number, into: Uint8Array) => Promise<void>;

/** Which cluster each entry of a table names, both ways. */
class EntryTable {
  readonly hostOffset: number;
  readonly entries: number;
  readonly #targetOf: (view: DataView, at: number) => number;
  readonly #targets = new Map<number, number>();
  readonly #indexes = new Map<number, number>();
  /** An entry may be written in pieces: its bytes as they are now. */
  readonly #bytes: Uint8Array;

  constructor(hostOffset: number, bytes: Uint8Array, targetOf: (view: DataView, at: number) => number) {
    this.hostOffset = hostOffset;
    this.entries = bytes.length / entryBytes;
    this.#bytes = bytes;
    this.#targetOf = targetOf;
    this.#learn(0, this.entries - 1);
  }

  get endOffset(): number {
    return this.hostOffset + this.#bytes.length;
  }

  /** Index of the entry that names a cluster. */
  indexOf(target: number): number | undefined {
    return this.#indexes.get(target);
  }

  note(hostOffset: number, bytes: Uint8Array): void {
    const from = Math.max(hostOffset, this.hostOffset);
    const to = Math.min(hostOffset + bytes.length, this.endOffset);
    if (from >= to) return;
    this.#bytes.set(bytes.subarray(from - hostOffset, to - hostOffset), from - this.hostOffset);
    this.#learn(indexAt(from - this.hostOffset), indexAt(to - this.hostOffset - 1));
  }

  #learn(first: number, last: number): void {
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
    for (let index = first; index <= last; index++) {
      const before = this.#targets.get(index);
      if (before !== undefined && this.#indexes.get(before) === index) this.#indexes.delete(before);
      this.#targets.delete(index);
      const target = this.#targetOf(view, index * entryBytes);
      if (target === 0) continue;
      this.#targets.set(index, target);
      this.#indexes.set(target, index);
    }
  }
}

const entryBytes = 8;
const indexAt = (byte: number): number => Math.floor(byte / entryBytes);

export class MetadataMap {
  readonly #read: ReadBytes;
  readonly #head: Uint8Array;
  #header: Qcow2Header;
  #l1: EntryTable;
  #refcountTable: EntryTable;
  /** Guest offset of the cluster that an entry of the log maps to a host cluster. */
  readonly #mapped = new Map<number, number>();

  private constructor(
    read: ReadBytes,
    head: Uint8Array,
    header: Qcow2Header,
    tables: { readonly l1: EntryTable; readonly refcountTable: EntryTable },
  ) {
    this.#read = read;
    this.#head = head;
    this.#header = header;
    this.#l1 = tables.l1;
    this.#refcountTable = tables.refcountTable;
  }

  /** @param header as decoded; its tables are read with `read` */
  static async load(read: ReadBytes, header: Qcow2Header): Promise<MetadataMap> {
    const head = new Uint8Array(2 ** header.clusterBits);
    await read(0, head);
    const tables = { l1: await loadL1(read, header), refcountTable: await loadRefcountTable(read, header) };
    return new MetadataMap(read, head, header, tables);
  }

  /** Bytes are written at a host offset: from now on names hold with them. */
  async note(hostOffset: number, bytes: Uint8Array): Promise<void> {
    this.#l1.note(hostOffset, bytes);
    this.#refcountTable.note(hostOffset, bytes);
    if (hostOffset < this.#head.length) await this.#noteHeader(hostOffset, bytes);
  }

  async #noteHeader(hostOffset: number, bytes: Uint8Array): Promise<void> {
    this.#head.set(bytes.subarray(0, this.#head.length - hostOffset), hostOffset);
    let header: Qcow2Header;
    try {
      header =
        this.#header.draftJournal === undefined
          ? decodeHeader(this.#head)
          : decodeDraftImageHeader(this.#head);
    } catch (error) {
      // Half of a change that comes in two pieces, or damage; the names of before are the best there are.
      if (error instanceof Qcow2Error) return;
      throw error;
    }
    // Everything else depends on it, and no writer changes it.
    if (header.clusterBits !== this.#header.clusterBits) return;
    const before = this.#header;
    this.#header = header;
    if (header.l1Offset !== before.l1Offset || header.l1Entries !== before.l1Entries) {
      this.#l1 = await loadL1(this.#read, header);
    }
    const moved = header.refcountTableOffset !== before.refcountTableOffset;
    if (moved || header.refcountTableClusters !== before.refcountTableClusters) {
      this.#refcountTable = await loadRefcountTable(this.#read, header);
    }
  }

  /** Of the same bytes, once all of their record is noted: which guest clusters they map. */
  noteEntries(hostOffset: number, bytes: Uint8Array): void {
    const clusterBytes = 2 ** this.#header.clusterBits;
    const format = l2FormatOf(this.#header);
    const width = l2EntryBytes(format);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = (width - (hostOffset % width)) % width; at + width <= bytes.length; at += width) {
      const inCluster = (hostOffset + at) % clusterBytes;
      const table = this.#l1.indexOf(hostOffset + at - inCluster);
      if (table === undefined) continue;
      const kind = classifyL2Entry(view, at, format);
      if (kind !== clusterKind.standard && kind !== clusterKind.mixed) continue;
      const guestCluster = table * l2EntriesPerTable(format) + inCluster / width;
      this.#mapped.set(readEntryOffset(view, at), guestCluster * clusterBytes);
    }
  }

  /** The guest range that stands in a host range, which lies within a cluster; none where the log does not say. */
  nameData(hostOffset: number, lengthBytes: number): Belonging[] {
    const inCluster = hostOffset % 2 ** this.#header.clusterBits;
    const guestOffset = this.#mapped.get(hostOffset - inCluster);
    if (guestOffset === undefined) return [];
    return [{ kind: 'guest-range', guestOffset: guestOffset + inCluster, lengthBytes }];
  }

  /** The pieces of a host range, in its order; neighbours that belong to nothing are one. */
  name(hostOffset: number, lengthBytes: number): Belonging[] {
    const pieces: Belonging[] = [];
    const clusterBytes = 2 ** this.#header.clusterBits;
    const end = hostOffset + lengthBytes;
    for (let at = hostOffset; at < end; ) {
      const next = Math.min(end, (Math.floor(at / clusterBytes) + 1) * clusterBytes);
      for (const piece of this.#nameInCluster(at, next - at)) push(pieces, piece);
      at = next;
    }
    return pieces;
  }

  /** @param lengthBytes not beyond the cluster's end */
  #nameInCluster(hostOffset: number, lengthBytes: number): Belonging[] {
    const clusterBytes = 2 ** this.#header.clusterBits;
    const inCluster = hostOffset % clusterBytes;
    const cluster = hostOffset - inCluster;
    if (cluster === 0) {
      return [{ kind: 'header', fields: headerFields(this.#header, inCluster, inCluster + lengthBytes) }];
    }
    const l1 = entriesOf(this.#l1, 'l1-entries', hostOffset, lengthBytes);
    if (l1 !== undefined) return l1;
    const table = entriesOf(this.#refcountTable, 'refcount-table-entries', hostOffset, lengthBytes);
    if (table !== undefined) return table;
    const l2Table = this.#l1.indexOf(cluster);
    if (l2Table !== undefined) return [this.#l2Entries(l2Table, inCluster, lengthBytes)];
    const block = this.#refcountTable.indexOf(cluster);
    if (block !== undefined) return [this.#refcounts(block, inCluster, lengthBytes)];
    return [{ kind: 'host-range', hostOffset, lengthBytes }];
  }

  #l2Entries(table: number, inCluster: number, lengthBytes: number): Belonging {
    const clusterBytes = 2 ** this.#header.clusterBits;
    const format = l2FormatOf(this.#header);
    const width = l2EntryBytes(format);
    const first = Math.floor(inCluster / width);
    const count = Math.floor((inCluster + lengthBytes - 1) / width) - first + 1;
    const guestCluster = table * l2EntriesPerTable(format) + first;
    return {
      kind: 'l2-entries',
      count,
      guestOffset: guestCluster * clusterBytes,
      lengthBytes: count * clusterBytes,
    };
  }

  #refcounts(block: number, inCluster: number, lengthBytes: number): Belonging {
    const widthBits = 2 ** this.#header.refcountOrder;
    const perBlock = (2 ** this.#header.clusterBits * 8) / widthBits;
    return {
      kind: 'refcounts',
      firstCluster: block * perBlock + Math.floor((inCluster * 8) / widthBits),
      lastCluster: block * perBlock + Math.ceil(((inCluster + lengthBytes) * 8) / widthBits) - 1,
    };
  }
}

async function loadL1(read: ReadBytes, header: Qcow2Header): Promise<EntryTable> {
  const bytes = new Uint8Array(header.l1Entries * entryBytes);
  await read(header.l1Offset, bytes);
  return new EntryTable(header.l1Offset, bytes, (view, at) =>
    soundTarget(() => {
      checkL1Entry(view, at, header.clusterBits, header.l1Offset);
      return readEntryOffset(view, at);
    }),
  );
}

async function loadRefcountTable(read: ReadBytes, header: Qcow2Header): Promise<EntryTable> {
  const bytes = new Uint8Array(header.refcountTableClusters * 2 ** header.clusterBits);
  await read(header.refcountTableOffset, bytes);
  return new EntryTable(header.refcountTableOffset, bytes, (view, at) =>
    soundTarget(() => {
      checkRefcountTableEntry(view, at, header.clusterBits, header.refcountTableOffset);
      return readRefcountBlockOffset(view, at);
    }),
  );
}

/** An entry that breaks its clauses names nothing. */
function soundTarget(target: () => number): number {
  try {
    return target();
  } catch (error) {
    if (error instanceof Qcow2Error) return 0;
    throw error;
  }
}

/** A table's part of a piece of one cluster, and what follows the table's end there. */
function entriesOf(
  table: EntryTable,
  kind: 'l1-entries' | 'refcount-table-entries',
  hostOffset: number,
  lengthBytes: number,
): Belonging[] | undefined {
  if (hostOffset < table.hostOffset || hostOffset >= table.endOffset) return undefined;
  const end = hostOffset + lengthBytes;
  const last = Math.min(end, table.endOffset) - 1;
  const first = indexAt(hostOffset - table.hostOffset);
  const pieces: Belonging[] = [{ kind, first, last: indexAt(last - table.hostOffset) }];
  if (end > table.endOffset) {
    pieces.push({ kind: 'host-range', hostOffset: table.endOffset, lengthBytes: end - table.endOffset });
  }
  return pieces;
}

/** Names of the fields that bytes `from` to `to` (exclusive) of the header's cluster touch. */
function headerFields(header: Qcow2Header, from: number, to: number): string[] {
  const all: readonly Field[] = headerLayout.fields;
  const names = all
    .filter((field) => header.version >= (field.sinceVersion ?? 0) && field.at < header.headerLengthBytes)
    .filter((field) => field.at < to && field.at + fieldBytes(field) > from)
    .map((field) => field.name);
  return to > header.headerLengthBytes ? [...names, 'extensions'] : names;
}

function push(pieces: Belonging[], piece: Belonging): void {
  const before = pieces.at(-1);
  if (before?.kind === 'host-range' && piece.kind === 'host-range') {
    pieces.pop();
    const lengthBytes = before.lengthBytes + piece.lengthBytes;
    pieces.push({ kind: 'host-range', hostOffset: before.hostOffset, lengthBytes });
    return;
  }
  pieces.push(piece);
}
