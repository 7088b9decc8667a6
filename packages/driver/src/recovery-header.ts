/**
 * A header for a damaged image: the one that it has, where that can be read at all; else one put together from the fields that are plausible, and
 * from what a scan of the file finds in place of the others. Each guess is told.
 *
 * What is looked for: a refcount table leads to a block that counts itself; an L1 table leads to L2 tables and to nothing else, and
 * is no snapshot's. What can not be found: the size of the disk, but that the L1 table has room for it, and a backing file's name.
 */
import { type BlockDevice, readPadded, run } from '@qcow2/block-device';
import {
  decodeHeader,
  decodeHeaderExtensions,
  decodeSnapshotTable,
  encodeHeader,
  type HeaderExtension,
  isSoundL2Entry,
  l1EntriesFor,
  l2EntryBytes,
  l2FormatOf,
  type Qcow2Header,
  readEntryOffset,
  readRefcountBlockOffset,
  refcountCodec,
} from '@qcow2/codec';
import {
  compatibleFeatures,
  headerExtensionTypes,
  incompatibleFeatures,
  Qcow2Error,
  qcow2Limits,
} from '@qcow2/spec';
import { loadHeader } from './load-header.ts';

/** What the caller knows. */
export interface HeaderHints {
  readonly clusterBytes?: number | undefined;
  readonly sizeBytes?: number | undefined;
}

export interface FoundHeader {
  readonly header: Qcow2Header;
  /** What was guessed, in words; empty: the header is the image's. */
  readonly guesses: readonly string[];
  readonly withoutRefcounts: boolean;
  /** Whether there was a backing file is not known. */
  readonly backingUnknown: boolean;
}

/** The header as it stands, if it decodes. A journal of the draft may be named in it. */
export async function headerAsItIs(device: BlockDevice): Promise<Qcow2Header | undefined> {
  try {
    return (await run(loadHeader(device))).header;
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

/** Headers that may be the image's, the most likely first. Each has been encoded and decoded again. */
export async function guessHeaders(device: BlockDevice, hints: HeaderHints): Promise<FoundHeader[]> {
  const head = new Uint8Array(65_536);
  await readPadded(device, 0, head);
  const raw = new DataView(head.buffer);
  const found: FoundHeader[] = [];
  for (const clusterBits of clusterBitsOf(raw, hints)) {
    for (const isExtended of extendedOf(raw, clusterBits)) {
      const guess = await guessOne(device, raw, clusterBits, isExtended, hints);
      if (guess !== undefined) found.push(guess);
    }
    // One size of clusters in which refcounts count themselves is enough.
    if (found.some(({ withoutRefcounts }) => !withoutRefcounts)) break;
  }
  return found.sort((a, b) => Number(a.withoutRefcounts) - Number(b.withoutRefcounts));
}

/** What the header says first, then what is usual. */
function clusterBitsOf(raw: DataView, { clusterBytes }: HeaderHints): number[] {
  if (clusterBytes !== undefined) return [Math.log2(clusterBytes)];
  const said = raw.getUint32(20);
  const all = [16, 12, 21, 20, 19, 18, 17, 15, 14, 13, 11, 10, 9];
  return said >= 9 && said <= 21 ? [said, ...all.filter((bits) => bits !== said)] : all;
}

function extendedOf(raw: DataView, clusterBits: number): boolean[] {
  if (clusterBits < 14 || raw.getUint32(4) === 2) return [false];
  const said = (raw.getBigUint64(72) & incompatibleFeatures.extendedL2) !== 0n;
  return [said, !said];
}

async function guessOne(
  device: BlockDevice,
  raw: DataView,
  clusterBits: number,
  isExtended: boolean,
  hints: HeaderHints,
): Promise<FoundHeader | undefined> {
  const guesses: string[] = [];
  const version = raw.getUint32(4) === 2 ? 2 : 3;
  if (raw.getUint32(0) !== 0x514649fb) guesses.push('the magic number');
  if (raw.getUint32(4) !== version) guesses.push(`version ${version}`);
  const clusterBytes = 2 ** clusterBits;
  if (raw.getUint32(20) !== clusterBits) guesses.push(`clusters of ${clusterBytes} bytes`);
  const header = skeleton(raw, version, clusterBits, isExtended, guesses);
  const scan = new TableScan(device, header);
  const refcounts = await scan.refcountTable(numberAt(raw, 48), raw.getUint32(96));
  if (refcounts === undefined) guesses.push('no refcount table was found');
  else {
    header.refcountOrder = refcounts.order;
    if (refcounts.offset !== numberAt(raw, 48)) guesses.push(`refcount table at ${refcounts.offset}`);
    if (version === 3 && refcounts.order !== raw.getUint32(96))
      guesses.push(`refcounts of ${2 ** refcounts.order} bits`);
  }
  header.refcountTableOffset =
    refcounts?.offset ?? Math.ceil(device.sizeBytes / clusterBytes + 64) * clusterBytes;
  header.refcountTableClusters =
    refcounts === undefined ? 1 : tableClusters(raw.getUint32(56), refcounts.offset, device, clusterBytes);
  await keepSnapshots(device, raw, header, guesses);
  if (!(await placeL1(device, raw, header, scan, hints, guesses))) return undefined;
  const backingUnknown = keepNames(raw, header, guesses);
  return encodable(header, { guesses, withoutRefcounts: refcounts === undefined, backingUnknown }, device);
}

function skeleton(
  raw: DataView,
  version: 2 | 3,
  clusterBits: number,
  isExtended: boolean,
  guesses: string[],
): Qcow2Header {
  const said = version === 2 ? 0n : raw.getBigUint64(72);
  const known = incompatibleFeatures.dirty | incompatibleFeatures.compressionType;
  const isZstd = version === 3 && raw.getUint8(104) === 1 && raw.getUint32(100) > 104;
  let incompatible = said & known & ~incompatibleFeatures.compressionType;
  if (isZstd) incompatible |= incompatibleFeatures.compressionType;
  if (isExtended) incompatible |= incompatibleFeatures.extendedL2;
  if (incompatible !== said) guesses.push(`incompatible features 0x${incompatible.toString(16)}`);
  return {
    version,
    backingFileOffset: 0,
    backingFileLengthBytes: 0,
    clusterBits,
    sizeBytes: 0,
    cryptMethod: 0,
    l1Entries: 0,
    l1Offset: 0,
    refcountTableOffset: 0,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures: incompatible,
    compatibleFeatures: version === 2 ? 0n : raw.getBigUint64(80) & compatibleFeatures.lazyRefcounts,
    autoclearFeatures: 0n,
    refcountOrder: 4,
    headerLengthBytes: version === 2 ? 72 : 112,
    compressionType: isZstd ? 1 : 0,
    unknownHeaderBytes: new Uint8Array(version === 2 ? 0 : 7),
    extensions: [],
  };
}

function tableClusters(said: number, offset: number, device: BlockDevice, clusterBytes: number): number {
  const fits = said > 0 && said * clusterBytes <= qcow2Limits.maxRefcountTableBytes;
  return fits && offset + said * clusterBytes <= device.sizeBytes ? said : 1;
}

async function keepSnapshots(
  device: BlockDevice,
  raw: DataView,
  header: Qcow2Header,
  guesses: string[],
): Promise<void> {
  const count = raw.getUint32(60);
  const offset = numberAt(raw, 64);
  if (count === 0 && offset === 0) return;
  const clusterBytes = 2 ** header.clusterBits;
  const isPlace = offset >= clusterBytes && offset % clusterBytes === 0 && offset < device.sizeBytes;
  if (isPlace && count > 0 && count <= qcow2Limits.maxSnapshots) {
    const bytes = new Uint8Array(Math.min(device.sizeBytes - offset, 2 ** 20));
    await readPadded(device, offset, bytes);
    try {
      decodeSnapshotTable(bytes, count, { hostOffset: offset, clusterBytes });
      header.snapshotCount = count;
      header.snapshotsOffset = offset;
      return;
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
    }
  }
  guesses.push('no snapshots');
}

async function placeL1(
  device: BlockDevice,
  raw: DataView,
  header: Qcow2Header,
  scan: TableScan,
  hints: HeaderHints,
  guesses: string[],
): Promise<boolean> {
  const said = { offset: numberAt(raw, 40), entries: raw.getUint32(36), size: numberAt(raw, 24) };
  const coverage = scan.bytesPerTable;
  const most = qcow2Limits.maxL1TableBytes / 8;
  const saidFits = said.size > 0 && said.size % 512 === 0 && Math.ceil(said.size / coverage) <= most;
  const entriesFit = said.entries > 0 && said.entries <= most;
  const size =
    hints.sizeBytes ??
    (saidFits && (!entriesFit || said.size <= said.entries * coverage) ? said.size : undefined);
  const isPlace = await scan.isL1(said.offset);
  const offset = isPlace ? said.offset : (await scan.findL1(header, device))[0];
  if (offset === undefined) return false;
  if (!isPlace) guesses.push(`L1 table at ${offset}`);
  const entries =
    entriesFit && offset + said.entries * 8 <= device.sizeBytes + 2 ** header.clusterBits ? said.entries : 0;
  header.sizeBytes = size ?? (entries || (await scan.l1Length(offset))) * coverage;
  if (size === undefined)
    guesses.push(`a disk of ${header.sizeBytes} bytes, the most that the L1 table has room for`);
  header.l1Entries = Math.max(entries, l1EntriesFor(header));
  if (header.l1Entries !== said.entries) guesses.push(`L1 table of ${header.l1Entries} entries`);
  header.l1Offset = offset;
  return true;
}

/** @returns whether a backing file may have been named and is not known */
function keepNames(raw: DataView, header: Qcow2Header, guesses: string[]): boolean {
  const bytes = new Uint8Array(raw.buffer).subarray(0, Math.min(raw.byteLength, 2 ** header.clusterBits));
  const nameAt = numberAt(raw, 8);
  const nameLength = raw.getUint32(16);
  const isName = nameAt >= 72 && nameLength > 0 && nameLength <= 1023 && nameAt + nameLength <= bytes.length;
  const end = isName ? nameAt : bytes.length;
  const length = header.version === 2 ? 72 : raw.getUint32(100);
  const lengthIsSound = length >= 72 && length % 8 === 0 && length <= 512;
  header.extensions = extensionsAt(bytes, lengthIsSound ? length : header.headerLengthBytes, end, guesses);
  if (isName) header.backingFileName = new TextDecoder().decode(bytes.subarray(nameAt, nameAt + nameLength));
  const hasFormat = header.extensions.some(({ type }) => type === headerExtensionTypes.backingFormat);
  const isZeroed = raw.getUint32(0) === 0 && raw.getUint32(4) === 0;
  return !isName && (nameAt !== 0 || nameLength !== 0 || hasFormat || isZeroed);
}

/** Those whose meaning does not hang on a feature bit that may be wrong. */
function extensionsAt(bytes: Uint8Array, at: number, end: number, guesses: string[]): HeaderExtension[] {
  try {
    const { extensions } = decodeHeaderExtensions(bytes, at, end);
    const kept: readonly number[] = [
      headerExtensionTypes.backingFormat,
      headerExtensionTypes.featureNameTable,
    ];
    return extensions.filter(({ type }) => kept.includes(type));
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    guesses.push('no header extensions');
    return [];
  }
}

function encodable(
  header: Qcow2Header,
  about: Omit<FoundHeader, 'header'>,
  device: BlockDevice,
): FoundHeader | undefined {
  try {
    const end = Math.max(device.sizeBytes, header.refcountTableOffset + 2 ** header.clusterBits);
    return { header: decodeHeader(encodeHeader(header), end), ...about };
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

function numberAt(raw: DataView, at: number): number {
  return Number(raw.getBigUint64(at));
}

const scannedBytes = 2 ** 21;

/** Looks for tables in clusters of one size. Reads the file once, at most, for each kind. */
export class TableScan {
  readonly #device: BlockDevice;
  readonly #header: Qcow2Header;
  readonly #clusterBytes: number;
  readonly #bytes: Uint8Array;

  constructor(device: BlockDevice, header: Qcow2Header) {
    this.#device = device;
    this.#header = header;
    this.#clusterBytes = 2 ** header.clusterBits;
    this.#bytes = new Uint8Array(this.#clusterBytes);
  }

  /** Guest bytes that one L2 table maps. */
  get bytesPerTable(): number {
    return (this.#clusterBytes / l2EntryBytes(l2FormatOf(this.#header))) * this.#clusterBytes;
  }

  /** A table whose first block counts the header, itself, and the table. */
  async refcountTable(
    said: number,
    saidOrder: number,
  ): Promise<{ offset: number; order: number } | undefined> {
    const orders =
      this.#header.version === 2 ? [4] : [saidOrder, 4, 0, 1, 2, 3, 5, 6].filter((order) => order <= 6);
    const tryAt = async (offset: number) => {
      for (const order of orders) if (await this.#countsItself(offset, order)) return { offset, order };
      return undefined;
    };
    for (const offset of [said, this.#clusterBytes]) {
      const found = await tryAt(offset);
      if (found !== undefined) return found;
    }
    for await (const { offset, view } of this.#clusters()) {
      const first = readRefcountBlockOffset(view, 0);
      if (!this.#isPlace(first) || view.getUint32(0) > 0x1f_ffff) continue;
      const found = await tryAt(offset);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #countsItself(table: number, order: number): Promise<boolean> {
    if (!this.#isPlace(table)) return false;
    const entry = new Uint8Array(8);
    await readPadded(this.#device, table, entry);
    const block = Number(new DataView(entry.buffer).getBigUint64(0));
    if (!this.#isPlace(block) || block === table) return false;
    await readPadded(this.#device, block, this.#bytes);
    const view = new DataView(this.#bytes.buffer);
    const codec = refcountCodec(order);
    const per = codec.entriesPerBlock(this.#clusterBytes);
    try {
      return [0, block, table].every((host) => {
        const cluster = host / this.#clusterBytes;
        return cluster >= per || codec.get(view, cluster) === 1;
      });
    } catch (error) {
      if (error instanceof Qcow2Error) return false;
      throw error;
    }
  }

  /** Where the header says that the L1 table is: entries lead to places in the file. */
  async isL1(offset: number): Promise<boolean> {
    if (!this.#isPlace(offset)) return false;
    const bytes = new Uint8Array(this.#clusterBytes);
    await readPadded(this.#device, offset, bytes);
    return this.#mayBeL1(new DataView(bytes.buffer));
  }

  /** Tables that look like an L1 table, but those of snapshots; in the order of the file. */
  async findL1(header: Qcow2Header, device: BlockDevice): Promise<number[]> {
    const taken = await snapshotTables(header, device);
    const found: number[] = [];
    for await (const { offset, view } of this.#clusters()) {
      if (taken.has(offset) || !this.#mayBeL1(view)) continue;
      if (
        await this.#leadsToTables(
          new DataView(view.buffer.slice(view.byteOffset, view.byteOffset + this.#clusterBytes)),
        )
      )
        found.push(offset);
    }
    return found;
  }

  /** Entries up to the last one that leads somewhere. */
  async l1Length(offset: number): Promise<number> {
    const bytes = new Uint8Array(this.#clusterBytes);
    await readPadded(this.#device, offset, bytes);
    const view = new DataView(bytes.buffer);
    let entries = bytes.length / 8;
    while (entries > 1 && view.getBigUint64(entries * 8 - 8) === 0n) entries--;
    return entries;
  }

  #mayBeL1(view: DataView): boolean {
    let used = 0;
    for (let at = 0; at < this.#clusterBytes; at += 8) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high === 0 && low === 0) continue;
      if ((high & 0x7f00_0000) !== 0 || (low & 511) !== 0) return false;
      if (!this.#isPlace(readEntryOffset(view, at))) return false;
      used++;
    }
    return used > 0;
  }

  async #leadsToTables(view: DataView): Promise<boolean> {
    if (!this.#mayBeL1(view)) return false;
    let tables = 0;
    let others = 0;
    for (let at = 0; at < this.#clusterBytes; at += 8) {
      const offset = readEntryOffset(view, at);
      if (offset === 0) continue;
      if (await this.isL2(offset)) tables++;
      else others++;
    }
    return tables > others;
  }

  /** Entries are sound, one at least leads somewhere, and those that do lead into the file. */
  async isL2(offset: number): Promise<boolean> {
    if (!this.#isPlace(offset)) return false;
    await readPadded(this.#device, offset, this.#bytes);
    const view = new DataView(this.#bytes.buffer);
    const format = l2FormatOf(this.#header);
    let used = 0;
    let broken = 0;
    for (let at = 0; at < this.#clusterBytes; at += l2EntryBytes(format)) {
      if (view.getUint32(at) === 0 && view.getUint32(at + 4) === 0) continue;
      used++;
      if (!isSoundL2Entry(view, at, format)) broken++;
      else if (
        (view.getUint32(at) & 0x4000_0000) === 0 &&
        readEntryOffset(view, at) >= this.#device.sizeBytes
      )
        broken++;
    }
    return used > 0 && broken * 4 <= used;
  }

  #isPlace(offset: number): boolean {
    return (
      offset >= this.#clusterBytes && offset % this.#clusterBytes === 0 && offset < this.#device.sizeBytes
    );
  }

  async *#clusters(): AsyncGenerator<{ readonly offset: number; readonly view: DataView }, void, undefined> {
    const chunk = new Uint8Array(Math.max(scannedBytes, this.#clusterBytes));
    for (let from = this.#clusterBytes; from < this.#device.sizeBytes; from += chunk.length) {
      await readPadded(this.#device, from, chunk);
      const end = Math.min(chunk.length, this.#device.sizeBytes - from);
      for (let at = 0; at < end; at += this.#clusterBytes) {
        yield { offset: from + at, view: new DataView(chunk.buffer, at, this.#clusterBytes) };
      }
    }
  }
}

async function snapshotTables(header: Qcow2Header, device: BlockDevice): Promise<ReadonlySet<number>> {
  if (header.snapshotCount === 0) return new Set();
  const bytes = new Uint8Array(Math.min(device.sizeBytes - header.snapshotsOffset, 2 ** 20));
  await readPadded(device, header.snapshotsOffset, bytes);
  const { snapshots } = decodeSnapshotTable(bytes, header.snapshotCount, {
    hostOffset: header.snapshotsOffset,
    clusterBytes: 2 ** header.clusterBits,
  });
  return new Set(snapshots.map(({ l1Offset }) => l1Offset));
}
