/** What the codecs read from each golden vector, against what QEMU said about it when it made it. */
import {
  classifyL2Entry,
  classifySubcluster,
  clusterKind,
  decodeBackingFormat,
  decodeExternalDataFile,
  findHeaderExtension,
  l2EntriesPerTable,
  l2EntryBytes,
  readEntryOffset,
} from '@qcow2/codec';
import {
  autoclearFeatures,
  bitmapFlags,
  compatibleFeatures,
  compressionTypes,
  cryptMethods,
  headerExtensionTypes,
  incompatibleFeatures,
} from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type ImageWalk, walkImage } from '../src/image-walk.ts';
import { loadVector, type QemuMapExtent, type Vector, vectorNames } from '../src/vector.ts';
import { checkCounts } from './reference-count.ts';

/** `qemu-img convert` reads a snapshot with the size of the active disk; where its own is another, it stands here. */
const snapshotSizes: ReadonlyMap<string, number> = new Map([['snapshot-resized', 65536]]);

describe.each(vectorNames())('%s', (name) => {
  const vector = loadVector(name);
  const { info, check, map } = vector.manifest.qemu;
  const walk = walkImage(vector.bytes);

  it('[HDR-003, HDR-004, HDR-005, HDR-006, HDR-007, HDR-015, HDR-016, HDR-017, HDR-018, EXT-010, EXT-011, EXT-012] has the header that qemu-img info describes', () => {
    expect(describeHeader(walk)).toEqual(describedByQemu(vector));
  });

  it('[HDR-012, HDR-013, SNP-001, SNP-004, SNP-005, SNP-006, SNP-007, SNP-008, SNP-010, SNP-012, SNP-014, SNP-019] has the snapshots that qemu-img info lists', () => {
    const listed = (info.snapshots ?? []).map((snapshot) => ({
      id: snapshot.id,
      name: snapshot.name,
      vmStateLengthBytes: snapshot['vm-state-size'],
      dateSeconds: snapshot['date-sec'],
      dateNanoseconds: snapshot['date-nsec'],
      vmClockNanoseconds:
        BigInt(snapshot['vm-clock-sec']) * 1_000_000_000n + BigInt(snapshot['vm-clock-nsec']),
      // QEMU leaves out the count where there is none: all ones.
      instructionCount: snapshot.icount === undefined ? 2n ** 64n - 1n : BigInt(snapshot.icount),
    }));
    expect(walk.snapshots).toEqual(listed.map((snapshot) => expect.objectContaining(snapshot)));
    const guests = Object.values(vector.manifest.guestOfSnapshot ?? {});
    const sizes = guests.map(({ sizeBytes }) => snapshotSizes.get(name) ?? sizeBytes);
    expect(walk.snapshots.map(({ diskSizeBytes }) => diskSizeBytes)).toEqual(sizes);
  });

  it('[BMX-001, BMX-002, BMX-004, BMX-005, BMD-001, BMD-004, BMD-010, BMD-011, BMD-015] has the bitmaps that qemu-img info lists', () => {
    const bitmaps = walk.bitmaps.map(({ name, granularityBits, flags }) => ({
      name,
      granularity: 2 ** granularityBits,
      flags: [
        ...((flags & bitmapFlags.inUse) === 0 ? [] : ['in-use']),
        ...((flags & bitmapFlags.auto) === 0 ? [] : ['auto']),
      ],
    }));
    expect(bitmaps).toEqual(info['format-specific'].data.bitmaps ?? []);
  });

  it('[HDR-008, HDR-009, L1E-001, L1E-003, L1E-006, L2E-001, L2E-008, L2E-009, SUB-001] maps every guest cluster where qemu-img map says', () => {
    const extents = map.filter((extent) => extent.depth === 0 || !extent.present);
    expect(differences(walk, extents, vector)).toEqual([]);
  });

  it('[HDR-010, HDR-011, RCT-001, RCT-002, RCT-004, RCT-006, RCB-001, RCB-002, RCB-003, RCB-004, RCB-006, L1E-004, L2E-004, CMP-004] has the leaks, corruptions and cluster counts that qemu-img check found', () => {
    const counts = checkCounts(walk);
    expect(counts).toEqual({
      leaks: check.leaks ?? 0,
      corruptions: check.corruptions ?? 0,
      allocatedClusters: check['allocated-clusters'] ?? 0,
      compressedClusters: check['compressed-clusters'] ?? 0,
    });
    expect(Math.ceil(walk.header.sizeBytes / walk.clusterBytes)).toBe(check['total-clusters'] ?? 0);
    expect(check.exitCode).toBe(counts.corruptions > 0 ? 2 : counts.leaks > 0 ? 3 : 0);
  });
});

/** The header in the words of `qemu-img info`. */
function describeHeader({ header, clusterBytes }: ImageWalk) {
  const has = (mask: bigint): boolean => (header.incompatibleFeatures & mask) !== 0n;
  const format = findHeaderExtension(header.extensions, headerExtensionTypes.backingFormat);
  const dataFile = findHeaderExtension(header.extensions, headerExtensionTypes.externalDataFile);
  return {
    version: header.version,
    sizeBytes: header.sizeBytes,
    clusterBytes,
    refcountBits: 2 ** header.refcountOrder,
    isDirty: has(incompatibleFeatures.dirty),
    isCorrupt: has(incompatibleFeatures.corrupt),
    hasExtendedL2: has(incompatibleFeatures.extendedL2),
    hasLazyRefcounts: (header.compatibleFeatures & compatibleFeatures.lazyRefcounts) !== 0n,
    compressionType: header.compressionType,
    cryptMethod: header.cryptMethod,
    backingFileName: header.backingFileName,
    backingFormat: format === undefined ? undefined : decodeBackingFormat(format),
    dataFile: dataFile === undefined ? undefined : decodeExternalDataFile(dataFile),
    hasDataFile: has(incompatibleFeatures.externalDataFile),
    isDataFileRaw: (header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n,
  };
}

function describedByQemu({ manifest }: Vector): ReturnType<typeof describeHeader> {
  const { info } = manifest.qemu;
  const { data } = info['format-specific'];
  return {
    version: data.compat === '0.10' ? 2 : 3,
    sizeBytes: info['virtual-size'],
    clusterBytes: info['cluster-size'],
    refcountBits: data['refcount-bits'],
    isDirty: info['dirty-flag'],
    isCorrupt: data.corrupt ?? false,
    hasExtendedL2: data['extended-l2'] ?? false,
    hasLazyRefcounts: data['lazy-refcounts'] ?? false,
    compressionType: data['compression-type'] === 'zstd' ? compressionTypes.zstd : compressionTypes.deflate,
    cryptMethod: cryptMethods[data.encrypt?.format ?? 'none'],
    backingFileName: info['backing-filename'],
    backingFormat: info['backing-filename-format'],
    dataFile: data['data-file'],
    hasDataFile: data['data-file'] !== undefined,
    isDataFileRaw: data['data-file-raw'] ?? false,
  };
}

/** Guest ranges that the L2 tables and QEMU's map see differently. A range is a cluster, or a sub-cluster. */
function differences(walk: ImageWalk, extents: readonly QemuMapExtent[], { manifest }: Vector): string[] {
  const found: string[] = [];
  const unitBytes = walk.l2Format.extended ? walk.clusterBytes / 32 : walk.clusterBytes;
  const hasBacking = walk.header.backingFileName !== undefined;
  for (const extent of extents) {
    const end = extent.start + extent.length;
    for (let guest = extent.start; guest < end; guest += unitBytes - (guest % unitBytes)) {
      const { kind, hostOffset, tableAt } = lookUp(walk, guest);
      if (tableAt === undefined && !hasBacking && !extent.present) {
        // Nothing is mapped up to the next L2 table: a disk of terabytes would take too long cluster by cluster.
        const span = l2EntriesPerTable(walk.l2Format) * walk.clusterBytes;
        guest = Math.min(end, Math.floor(guest / span + 1) * span) - unitBytes;
        continue;
      }
      const fault = fitFault(
        kind,
        hostOffset,
        extent,
        guest - extent.start,
        manifest.passphrase !== undefined,
      );
      if (fault !== undefined) found.push(`guest offset ${guest}: ${fault}`);
    }
  }
  return found;
}

/** What contradicts QEMU's extent in how the L2 entry maps one cluster or sub-cluster, or undefined. */
function fitFault(
  kind: number,
  hostOffset: number | undefined,
  extent: QemuMapExtent,
  distance: number,
  isEncrypted: boolean,
): string | undefined {
  const isUnallocated = kind === clusterKind.unallocated || kind === clusterKind.preallocated;
  const isZero = kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated;
  const isData = kind === clusterKind.standard || kind === clusterKind.compressed;
  if (isUnallocated === extent.present) return `kind ${kind}, present ${extent.present}`;
  if (isUnallocated) return undefined;
  if (isData !== extent.data && !(isZero && extent.zero)) return `kind ${kind}, data ${extent.data}`;
  if (isZero && !extent.zero) return `kind ${kind}, zero ${extent.zero}`;
  const expected = extent.offset === undefined ? undefined : extent.offset + distance;
  const isNamed = kind !== clusterKind.compressed && kind !== clusterKind.zeroPlain && !isEncrypted;
  if (isNamed && expected !== hostOffset) return `host offset ${hostOffset}, QEMU ${expected}`;
  return undefined;
}

function lookUp(
  walk: ImageWalk,
  guest: number,
): { kind: number; hostOffset: number | undefined; tableAt: number | undefined } {
  const perTable = l2EntriesPerTable(walk.l2Format);
  const cluster = Math.floor(guest / walk.clusterBytes);
  const table = walk.active.l2.get(Math.floor(cluster / perTable));
  if (table === undefined)
    return { kind: clusterKind.unallocated, hostOffset: undefined, tableAt: undefined };
  const at = (cluster % perTable) * l2EntryBytes(walk.l2Format);
  const inCluster = guest % walk.clusterBytes;
  const kind = walk.l2Format.extended
    ? classifySubcluster(table.view, at, Math.floor(inCluster / (walk.clusterBytes / 32)))
    : classifyL2Entry(table.view, at, walk.l2Format);
  return { kind, hostOffset: readEntryOffset(table.view, at) + inCluster, tableAt: table.at };
}
