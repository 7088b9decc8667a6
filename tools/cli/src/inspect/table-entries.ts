/**
 * The tables of an image entry by entry, each decoded by its layout: L1 and L2 of the active disk, refcounts. Entries that are zero are
 * passed over. One table of a cluster is held at a time, besides the L1 and the refcount table.
 */
import { type BlockDevice, readPadded } from '@qcow2/block-device';
import {
  classifyL2Entry,
  clusterKind,
  l2EntriesPerTable,
  l2EntryBytes,
  l2FormatOf,
  type Qcow2Header,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
  readRefcountBlockOffset,
  refcountCodec,
} from '@qcow2/codec';
import { l1EntryBits, l2EntryBits, refcountTableEntryBits } from '@qcow2/spec';

export interface TableEntry {
  readonly table: 'l1' | 'l2' | 'refcount-table' | 'refcounts';
  readonly hostOffset: number;
  /** As stored; of `refcounts` the count. */
  readonly value: bigint;
  /** What it says, in words. */
  readonly meaning: string;
  readonly clause: string;
}

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** The entries of L1 and L2 tables, in the order of the disk. */
export async function* mappingEntries(device: BlockDevice, header: Qcow2Header): AsyncGenerator<TableEntry> {
  const clusterBytes = 2 ** header.clusterBits;
  const format = l2FormatOf(header);
  const reach = l2EntriesPerTable(format) * clusterBytes;
  const l1 = await readTable(device, header.l1Offset, header.l1Entries * 8);
  const table = new DataView(new ArrayBuffer(clusterBytes));
  for (let index = 0; index < l1.byteLength / 8; index++) {
    const value = l1.getBigUint64(index * 8);
    if (value === 0n) continue;
    const meaning = `guest ${rangeText(index * reach, reach)}: L2 table at ${hex(readEntryOffset(l1, index * 8))}`;
    const copied = copiedText(readEntryCopied(l1, index * 8));
    const at = { hostOffset: header.l1Offset + index * 8, clause: l1EntryBits.clause };
    yield { table: 'l1', value, meaning: meaning + copied, ...at };
    const tableOffset = readEntryOffset(l1, index * 8);
    if (tableOffset === 0 || tableOffset >= device.sizeBytes) continue;
    await readPadded(device, tableOffset, new Uint8Array(table.buffer));
    for (let at = 0; at < clusterBytes; at += l2EntryBytes(format)) {
      const entry = l2Entry(table, at, header);
      const guest = index * reach + (at / l2EntryBytes(format)) * clusterBytes;
      if (entry === undefined) continue;
      const meaning = `guest ${rangeText(guest, clusterBytes)}: ${entry.meaning}`;
      yield { table: 'l2', hostOffset: tableOffset + at, ...entry, meaning };
    }
  }
}

/** One L2 entry in words; undefined where it is zero. */
export function l2Entry(
  view: DataView,
  at: number,
  header: Qcow2Header,
): Pick<TableEntry, 'value' | 'meaning' | 'clause'> | undefined {
  const format = l2FormatOf(header);
  const value = view.getBigUint64(at);
  const bitmap = l2EntryBytes(format) === 16 ? view.getBigUint64(at + 8) : 0n;
  if (value === 0n && bitmap === 0n) return undefined;
  const clause = l2EntryBits.clause;
  const kind = classifyL2Entry(view, at, format);
  if (kind === clusterKind.compressed) {
    const place = readCompressedOffset(view, at, header.clusterBits);
    const lengthBytes = readCompressedLengthBytes(view, at, header.clusterBits);
    return { value, meaning: `compressed, ${rangeText(place, lengthBytes)}`, clause };
  }
  const words = [kindWords[kind] ?? 'of no kind that there is'];
  const host = readEntryOffset(view, at);
  if (host !== 0) words.push(`at ${hex(host)}`);
  if (bitmap !== 0n) words.push(`sub-clusters ${hex(bitmap)}`);
  return { value, meaning: words.join(', ') + copiedText(readEntryCopied(view, at)), clause };
}

const kindWords: Readonly<Record<number, string>> = {
  [clusterKind.unallocated]: 'unallocated',
  [clusterKind.standard]: 'data',
  [clusterKind.zeroPlain]: 'zeros',
  [clusterKind.zeroAllocated]: 'zeros, with a cluster of its own',
  [clusterKind.preallocated]: 'unallocated, with a cluster of its own',
  [clusterKind.mixed]: 'sub-clusters of several kinds',
};

/** The refcount table's entries, and of each block the runs of clusters with one refcount that is not zero. */
export async function* refcountEntries(device: BlockDevice, header: Qcow2Header): AsyncGenerator<TableEntry> {
  const clusterBytes = 2 ** header.clusterBits;
  const tableBytes = header.refcountTableClusters * clusterBytes;
  const table = await readTable(device, header.refcountTableOffset, tableBytes);
  const codec = refcountCodec(header.refcountOrder);
  const perBlock = (clusterBytes * 8) / 2 ** header.refcountOrder;
  const block = new Uint8Array(clusterBytes);
  for (let index = 0; index < table.byteLength / 8; index++) {
    const value = table.getBigUint64(index * 8);
    if (value === 0n) continue;
    const place = readRefcountBlockOffset(table, index * 8);
    const first = index * perBlock;
    const hostOffset = header.refcountTableOffset + index * 8;
    const meaning = `clusters ${first} to ${first + perBlock - 1}: refcount block at ${hex(place)}`;
    yield { table: 'refcount-table', hostOffset, value, meaning, clause: refcountTableEntryBits.clause };
    if (place === 0 || place >= device.sizeBytes) continue;
    await readPadded(device, place, block);
    const view = new DataView(block.buffer);
    for (let from = 0; from < perBlock; ) {
      const count = codec.get(view, from);
      let end = from + 1;
      while (end < perBlock && codec.get(view, end) === count) end++;
      if (count !== 0) {
        const clusters =
          end - from === 1 ? `cluster ${first + from}` : `clusters ${first + from} to ${first + end - 1}`;
        const at = place + Math.floor((from * 2 ** header.refcountOrder) / 8);
        const words = `${clusters}: refcount ${count}`;
        yield { table: 'refcounts', hostOffset: at, value: BigInt(count), meaning: words, clause: 'RCB-001' };
      }
      from = end;
    }
  }
}

/** The format's limits bound these tables; what lies behind the end of the file is not there. */
async function readTable(device: BlockDevice, hostOffset: number, lengthBytes: number): Promise<DataView> {
  const present = Math.max(0, Math.min(lengthBytes, device.sizeBytes - hostOffset));
  const bytes = new Uint8Array(present - (present % 8));
  if (bytes.length > 0) await readPadded(device, hostOffset, bytes);
  return new DataView(bytes.buffer);
}

function copiedText(copied: boolean): string {
  return copied ? ', copied' : '';
}

function rangeText(offset: number, lengthBytes: number): string {
  return `${hex(offset)} to ${hex(offset + lengthBytes - 1)}`;
}
