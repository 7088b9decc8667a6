/**
 * An image whose every cluster is mapped, made in the time that writing its tables takes: the tables are really there,
 * the guest's clusters are holes of the file. `qemu-img create -o preallocation=metadata` makes the same, a hundred times slower.
 *
 *   header | refcount table | L1 table | refcount blocks | L2 tables | guest clusters
 *
 * A file system may end a file before the disk ends (ext4: 16 TiB): the disk's last clusters are not mapped then.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { encodeHeader, type Qcow2Header, writeRefcountTableEntry } from '@qcow2/codec';
import { BenchmarkFailure } from './failure.ts';

export interface MappedImage {
  readonly diskBytes: number;
  readonly clusterBytes: number;
  /** The file is not longer than this. */
  readonly fileBytes: number;
  /** So many wrong refcounts, evenly spread: by turns one too high and one too low. */
  readonly wrongRefcounts: number;
}

export interface MadeImage {
  readonly mappedBytes: number;
  readonly tableBytes: number;
}

const refcountBits = 16;
/** One reference, and "copied": the refcount is exactly one. */
const copied = 0x8000_0000;

/** Write the image. Not durable on return. @throws BenchmarkFailure where the file system has no place for it */
export function makeMappedImage(path: string, wanted: MappedImage): MadeImage {
  const { clusterBytes, diskBytes } = wanted;
  const layout = placeTables(wanted);
  const { blockCount, tableCount, firstBlock, firstTable, firstData, dataClusters } = layout;
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, (firstData + dataClusters) * clusterBytes);
    writeSync(fd, encodeHeader(headerOf(wanted, layout)), 0, clusterBytes, 0);
    const refcountTable = new DataView(new ArrayBuffer(layout.refcountTableClusters * clusterBytes));
    for (let i = 0; i < blockCount; i++)
      writeRefcountTableEntry(refcountTable, i * 8, (firstBlock + i) * clusterBytes);
    writeSync(fd, refcountTable, 0, refcountTable.byteLength, clusterBytes);
    const l1 = new DataView(new ArrayBuffer(tableCount * 8));
    for (let i = 0; i < tableCount; i++) writeEntry(l1, i, (firstTable + i) * clusterBytes);
    writeSync(fd, l1, 0, l1.byteLength, layout.firstL1 * clusterBytes);
    writeBlocks(fd, wanted, layout);
    const table = new DataView(new ArrayBuffer(clusterBytes));
    for (let i = 0; i < tableCount; i++) {
      for (let entry = 0; entry < clusterBytes / 8; entry++) {
        const cluster = i * (clusterBytes / 8) + entry;
        if (cluster < dataClusters) writeEntry(table, entry, (firstData + cluster) * clusterBytes);
        else table.setBigUint64(entry * 8, 0n);
      }
      writeSync(fd, table, 0, clusterBytes, (firstTable + i) * clusterBytes);
    }
  } catch (cause) {
    throw new BenchmarkFailure(`an image of ${diskBytes} bytes can not be made at ${path}`, { cause });
  } finally {
    closeSync(fd);
  }
  return { mappedBytes: dataClusters * clusterBytes, tableBytes: (blockCount + tableCount) * clusterBytes };
}

interface Layout {
  readonly refcountTableClusters: number;
  readonly firstL1: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly firstTable: number;
  readonly tableCount: number;
  readonly firstData: number;
  readonly dataClusters: number;
}

/** All in clusters. */
function placeTables({ diskBytes, clusterBytes, fileBytes }: MappedImage): Layout {
  const diskClusters = Math.ceil(diskBytes / clusterBytes);
  const perBlock = (clusterBytes * 8) / refcountBits;
  const tableCount = Math.ceil(diskClusters / (clusterBytes / 8));
  const l1Clusters = Math.ceil((tableCount * 8) / clusterBytes);
  // Enough for the metadata as well, whatever little it is beside the disk.
  const blockCount = Math.ceil((diskClusters * 1.001) / perBlock) + 1;
  const refcountTableClusters = Math.ceil((blockCount * 8) / clusterBytes);
  const firstL1 = 1 + refcountTableClusters;
  const firstBlock = firstL1 + l1Clusters;
  const firstTable = firstBlock + blockCount;
  const firstData = firstTable + tableCount;
  const dataClusters = Math.min(diskClusters, Math.floor(fileBytes / clusterBytes) - firstData);
  return {
    refcountTableClusters,
    firstL1,
    firstBlock,
    blockCount,
    firstTable,
    tableCount,
    firstData,
    dataClusters,
  };
}

function writeBlocks(fd: number, { clusterBytes, wrongRefcounts }: MappedImage, layout: Layout): void {
  const perBlock = (clusterBytes * 8) / refcountBits;
  const { firstBlock, blockCount, firstData, dataClusters } = layout;
  const used = firstData + dataClusters;
  const block = new DataView(new ArrayBuffer(clusterBytes));
  const isWrong = new Map<number, number>();
  for (let i = 0; i < wrongRefcounts; i++) {
    isWrong.set(firstData + Math.floor(((i + 0.5) * dataClusters) / wrongRefcounts), i % 2 === 0 ? 2 : 0);
  }
  for (let index = 0; index < blockCount; index++) {
    const first = index * perBlock;
    for (let i = 0; i < perBlock; i++) block.setUint16(i * 2, first + i < used ? 1 : 0);
    for (const [cluster, refcount] of isWrong) {
      if (cluster >= first && cluster < first + perBlock) block.setUint16((cluster - first) * 2, refcount);
    }
    writeSync(fd, block, 0, clusterBytes, (firstBlock + index) * clusterBytes);
  }
}

/** An entry of an L1 or L2 table, without the detour over 64-bit integers, of which there are hundreds of millions. */
function writeEntry(table: DataView, index: number, hostOffset: number): void {
  table.setUint32(index * 8, (Math.floor(hostOffset / 2 ** 32) | copied) >>> 0);
  table.setUint32(index * 8 + 4, hostOffset % 2 ** 32);
}

function headerOf({ diskBytes, clusterBytes }: MappedImage, layout: Layout): Qcow2Header {
  return {
    version: 3,
    backingFileOffset: 0,
    backingFileLengthBytes: 0,
    clusterBits: Math.log2(clusterBytes),
    sizeBytes: diskBytes,
    cryptMethod: 0,
    l1Entries: layout.tableCount,
    l1Offset: layout.firstL1 * clusterBytes,
    refcountTableOffset: clusterBytes,
    refcountTableClusters: layout.refcountTableClusters,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    refcountOrder: Math.log2(refcountBits),
    headerLengthBytes: 104,
    compressionType: 0,
    unknownHeaderBytes: new Uint8Array(),
    extensions: [],
  };
}
