/**
 * Walks a qcow2 image that lies in memory, with functions of `@qcow2/codec` and nothing else: header and
 * extensions, refcounts, mapping tables, snapshots, bitmaps. It is no driver: it follows pointers, checks every entry
 * on its way, and says where each structure stands. Tests compare what it finds with what QEMU said,
 * and feed it damaged images.
 *
 * Invariants: every structure is looked at in place (a copy is made only of one that reaches into what the file's last
 * cluster lacks), after it was found to lie in the file; an L2 table is walked once, however many entries point at it.
 * So nothing is allocated by a size that a damaged image names.
 */
import {
  type BitmapDirectoryEntry,
  checkBitmapTableEntry,
  checkL1Entry,
  checkL2Entry,
  checkRefcountTableEntry,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeClusterBytes,
  decodeEncryptionHeaderPointer,
  decodeFeatureNames,
  decodeHeader,
  decodeSnapshotTable,
  findHeaderExtension,
  type L2Format,
  l2EntryBytes,
  type Qcow2Header,
  type RefcountCodec,
  readEntryOffset,
  readRefcountBlockOffset,
  refcountCodec,
  type Snapshot,
} from '@qcow2/codec';
import { autoclearFeatures, FormatError, headerExtensionTypes, incompatibleFeatures } from '@qcow2/spec';

export type StructureKind =
  | 'header'
  | 'refcount-table'
  | 'refcount-block'
  | 'l1-table'
  | 'l2-table'
  | 'snapshot-table'
  | 'bitmap-directory'
  | 'bitmap-table'
  | 'encryption-header';

/** Where a structure stands in the image file. */
export interface Structure {
  readonly kind: StructureKind;
  readonly at: number;
  readonly lengthBytes: number;
}

/** A table in place: entry n at byte n times the entry's size of the view. */
export interface Table {
  /** Host offset. */
  readonly at: number;
  readonly view: DataView;
}

/** An L1 table and the L2 tables that it names, by L1 index. */
export interface Mapping {
  readonly l1: Table;
  readonly l1Entries: number;
  readonly l2: ReadonlyMap<number, Table>;
}

export interface ImageWalk {
  readonly header: Qcow2Header;
  readonly clusterBytes: number;
  readonly l2Format: L2Format;
  readonly refcounts: RefcountCodec;
  readonly refcountTable: Table;
  /** By index in the refcount table. */
  readonly refcountBlocks: ReadonlyMap<number, Table>;
  readonly active: Mapping;
  readonly snapshots: readonly Snapshot[];
  /** Of each snapshot, in order. */
  readonly snapshotMappings: readonly Mapping[];
  readonly bitmaps: readonly BitmapDirectoryEntry[];
  /** Of each bitmap, in order. */
  readonly bitmapTables: readonly Table[];
  /** In the order in which they were found, each once. */
  readonly structures: readonly Structure[];
}

export interface WalkOptions {
  /** How many entries of a table are looked at; default all. For walks that are repeated a thousand times. */
  readonly entriesPerTable?: number;
}

/** State of a walk: the file, and which tables have been seen. */
class Walker {
  readonly bytes: Uint8Array;
  readonly header: Qcow2Header;
  readonly clusterBytes: number;
  readonly l2Format: L2Format;
  readonly entriesPerTable: number;
  readonly structures: Structure[] = [];
  private readonly l2Tables = new Map<number, Table>();

  constructor(bytes: Uint8Array, options: WalkOptions) {
    this.bytes = bytes;
    this.clusterBytes = decodeClusterBytes(bytes);
    this.header = decodeHeader(bytes.subarray(0, this.clusterBytes), bytes.length);
    const { clusterBits, version, incompatibleFeatures: incompatible } = this.header;
    this.l2Format = {
      clusterBits,
      version,
      extended: (incompatible & incompatibleFeatures.extendedL2) !== 0n,
      externalData: (incompatible & incompatibleFeatures.externalDataFile) !== 0n,
    };
    this.entriesPerTable = options.entriesPerTable ?? Number.POSITIVE_INFINITY;
    this.structures.push({ kind: 'header', at: 0, lengthBytes: Math.min(this.clusterBytes, bytes.length) });
  }

  /** The bytes of a structure. `clause` is that of the pointer to it, and is broken where it leaves the file. */
  region(kind: StructureKind, at: number, lengthBytes: number, clause: string): Uint8Array {
    const fileEnd = Math.ceil(this.bytes.length / this.clusterBytes) * this.clusterBytes;
    if (at + lengthBytes > fileEnd) {
      const context = { hostOffset: at, field: kind, lengthBytes, clause };
      throw new FormatError('TRUNCATED', 'a structure reaches beyond the end of the file', context);
    }
    if (lengthBytes > 0) this.structures.push({ kind, at, lengthBytes });
    const present = this.bytes.subarray(at, at + lengthBytes);
    if (present.length === lengthBytes) return present;
    // What the last cluster lacks reads as zeros.
    const padded = new Uint8Array(lengthBytes);
    padded.set(present);
    return padded;
  }

  table(kind: StructureKind, at: number, lengthBytes: number, clause: string): Table {
    const bytes = this.region(kind, at, lengthBytes, clause);
    return { at, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
  }

  /** Positions of the entries of a table that are not all zeros. */
  *entries(table: Table, entryBytes: number): Generator<{ index: number; at: number }> {
    const { view } = table;
    const count = Math.min(view.byteLength / entryBytes, this.entriesPerTable);
    for (let index = 0; index < count; index++) {
      const at = index * entryBytes;
      let word = 0;
      for (let i = 0; i < entryBytes; i += 4) word |= view.getUint32(at + i);
      if (word !== 0) yield { index, at };
    }
  }

  mapping(l1Offset: number, l1Entries: number, clause: string): Mapping {
    const l2 = new Map<number, Table>();
    const l1 = this.table('l1-table', l1Offset, l1Entries * 8, clause);
    for (const { index, at } of this.entries(l1, 8)) {
      checkL1Entry(l1.view, at, this.header.clusterBits, l1.at);
      l2.set(index, this.l2Table(readEntryOffset(l1.view, at)));
    }
    return { l1, l1Entries, l2 };
  }

  private l2Table(offset: number): Table {
    const known = this.l2Tables.get(offset);
    if (known !== undefined) return known;
    const table = this.table('l2-table', offset, this.clusterBytes, 'L1E-003');
    this.l2Tables.set(offset, table);
    for (const { at } of this.entries(table, l2EntryBytes(this.l2Format))) {
      checkL2Entry(table.view, at, this.l2Format, table.at);
    }
    return table;
  }
}

/**
 * Walk an image.
 *
 * @param bytes the whole file; views of it are kept by the result
 * @throws FormatError where a structure breaks a clause
 */
export function walkImage(bytes: Uint8Array, options: WalkOptions = {}): ImageWalk {
  const walker = new Walker(bytes, options);
  const { header, clusterBytes, l2Format, structures } = walker;
  walkExtensions(walker);
  const refcounts = walkRefcounts(walker);
  const active = walker.mapping(header.l1Offset, header.l1Entries, 'HDR-033');
  const snapshots = walkSnapshots(walker);
  const snapshotMappings = snapshots.map((one) => walker.mapping(one.l1Offset, one.l1Entries, 'SNP-002'));
  const bitmaps = walkBitmaps(walker);
  return {
    header,
    clusterBytes,
    l2Format,
    ...refcounts,
    active,
    snapshots,
    snapshotMappings,
    ...bitmaps,
    structures,
  };
}

function walkExtensions(walker: Walker): void {
  const { header, clusterBytes } = walker;
  const names = findHeaderExtension(header.extensions, headerExtensionTypes.featureNameTable);
  if (names !== undefined) decodeFeatureNames(names, { hostOffset: header.headerLengthBytes });
  const encryption = findHeaderExtension(header.extensions, headerExtensionTypes.fullDiskEncryption);
  if (encryption === undefined) return;
  const pointer = decodeEncryptionHeaderPointer(encryption, { clusterBytes });
  walker.region('encryption-header', pointer.headerOffset, pointer.headerLengthBytes, 'FDE-003');
}

function walkRefcounts(walker: Walker): Pick<ImageWalk, 'refcounts' | 'refcountTable' | 'refcountBlocks'> {
  const { header, clusterBytes } = walker;
  const refcounts = refcountCodec(header.refcountOrder);
  const tableBytes = header.refcountTableClusters * clusterBytes;
  const refcountTable = walker.table('refcount-table', header.refcountTableOffset, tableBytes, 'HDR-033');
  const refcountBlocks = new Map<number, Table>();
  for (const { index, at } of walker.entries(refcountTable, 8)) {
    checkRefcountTableEntry(refcountTable.view, at, header.clusterBits, refcountTable.at);
    const blockOffset = readRefcountBlockOffset(refcountTable.view, at);
    const block = walker.table('refcount-block', blockOffset, clusterBytes, 'RCT-004');
    refcountBlocks.set(index, block);
    const count = Math.min(refcounts.entriesPerBlock(clusterBytes), walker.entriesPerTable);
    for (let entry = 0; entry < count; entry++) refcounts.get(block.view, entry);
  }
  return { refcounts, refcountTable, refcountBlocks };
}

function walkSnapshots({ bytes, header, clusterBytes, structures }: Walker): Snapshot[] {
  const { snapshotsOffset: hostOffset, snapshotCount } = header;
  if (snapshotCount === 0) return [];
  const table = decodeSnapshotTable(bytes.subarray(hostOffset), snapshotCount, { hostOffset, clusterBytes });
  structures.push({ kind: 'snapshot-table', at: hostOffset, lengthBytes: table.lengthBytes });
  return table.snapshots;
}

function walkBitmaps(walker: Walker): Pick<ImageWalk, 'bitmaps' | 'bitmapTables'> {
  const { header, clusterBytes } = walker;
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
  // Without the autoclear bit the data is not to be relied on, and not to be followed.
  const isValid = (header.autoclearFeatures & autoclearFeatures.bitmaps) !== 0n;
  if (data === undefined || !isValid) return { bitmaps: [], bitmapTables: [] };
  const { directoryOffset, directoryLengthBytes, bitmapCount } = decodeBitmapsExtension(data, {
    clusterBytes,
  });
  const directory = walker.region('bitmap-directory', directoryOffset, directoryLengthBytes, 'BMX-005');
  const bitmaps = decodeBitmapDirectory(directory, bitmapCount, {
    hostOffset: directoryOffset,
    clusterBytes,
  });
  const bitmapTables = bitmaps.map(({ tableOffset, tableEntries }) => {
    const table = walker.table('bitmap-table', tableOffset, tableEntries * 8, 'BMD-002');
    for (const { at } of walker.entries(table, 8)) {
      checkBitmapTableEntry(table.view, at, header.clusterBits, table.at);
    }
    return table;
  });
  return { bitmaps, bitmapTables };
}
