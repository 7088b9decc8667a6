/**
 * What must hold between the fields of a header, beyond the range of each. One rule, one clause, one
 * function: a rule looks at the whole header and says which field is at fault.
 */
import {
  autoclearFeatures,
  cryptMethods,
  FormatError,
  headerExtensionTypes,
  headerLayout,
  incompatibleFeatures,
  mappingSizes,
  qcow2Limits,
  refcountSizes,
  snapshotHeadLayout,
} from '@qcow2/spec';
import type { Qcow2Header } from './header.ts';
import {
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  findHeaderExtension,
} from './header-extension.ts';

type HeaderField = (typeof headerLayout)['fields'][number]['name'];
type FaultCode = 'BAD_FIELD' | 'LIMIT_EXCEEDED' | 'OFFSET_TOO_LARGE' | 'OVERLAP' | 'TRUNCATED';

const fieldOffsets: ReadonlyMap<string, number> = new Map(
  headerLayout.fields.map(({ name, at }) => [name, at]),
);

/** Refuse a header whose fields contradict each other or a limit. @throws FormatError */
export function checkHeader(header: Qcow2Header): void {
  checkVersion(header);
  checkFeatures(header);
  checkL1Table(header);
  checkRefcountTable(header);
  checkSnapshotTable(header);
  checkTablesDisjoint(header);
  checkBitmapsExtension(header);
  checkEncryption(header);
}

/** The tables that a header names must lie in the file, whose last cluster may be incomplete. [HDR-033] */
export function checkTablesInFile(header: Qcow2Header, fileSizeBytes: number): void {
  const clusterBytes = 2 ** header.clusterBits;
  const fileEnd = Math.ceil(fileSizeBytes / clusterBytes) * clusterBytes;
  for (const table of tablesOf(header)) {
    if (table.end <= fileEnd) continue;
    throw fault(
      'TRUNCATED',
      'a table reaches beyond the end of the file',
      table.field,
      table.start,
      'HDR-033',
    );
  }
}

function checkVersion(header: Qcow2Header): void {
  if (header.version !== 2) return;
  const { incompatibleFeatures: incompatible, compatibleFeatures, autoclearFeatures: autoclear } = header;
  if ((incompatible | compatibleFeatures | autoclear) !== 0n) {
    throw fault(
      'BAD_FIELD',
      'version 2 has no feature bits',
      'incompatibleFeatures',
      incompatible,
      'HDR-023',
    );
  }
  if (header.refcountOrder !== refcountSizes.version2RefcountOrder) {
    const message = 'version 2 has refcounts of 16 bits';
    throw fault('BAD_FIELD', message, 'refcountOrder', header.refcountOrder, 'HDR-023');
  }
}

function checkFeatures(header: Qcow2Header): void {
  const incompatible = header.incompatibleFeatures;
  const isSet =
    (header.compressionType !== 0) === ((incompatible & incompatibleFeatures.compressionType) !== 0n);
  if (!isSet) {
    const message = 'the compression type and its incompatible bit contradict each other';
    throw fault('BAD_FIELD', message, 'compressionType', header.compressionType, 'HDR-025');
  }
  const extended = (incompatible & incompatibleFeatures.extendedL2) !== 0n;
  if (extended && header.clusterBits < mappingSizes.extendedL2MinClusterBits) {
    const message = 'extended L2 entries need clusters of 16 KiB or more';
    throw fault('BAD_FIELD', message, 'clusterBits', header.clusterBits, 'HDR-026');
  }
  if ((header.autoclearFeatures & autoclearFeatures.rawExternalData) === 0n) return;
  if ((incompatible & incompatibleFeatures.externalDataFile) === 0n) {
    const message = 'raw external data without an external data file';
    throw fault('BAD_FIELD', message, 'autoclearFeatures', header.autoclearFeatures, 'FEA-011');
  }
  if (header.backingFileOffset !== 0) {
    const message = 'raw external data and a backing file exclude each other';
    throw fault('BAD_FIELD', message, 'backingFileOffset', header.backingFileOffset, 'HDR-029');
  }
}

function checkL1Table(header: Qcow2Header): void {
  if (header.l1Entries * mappingSizes.l1EntryBytes > qcow2Limits.maxL1TableBytes) {
    throw fault('LIMIT_EXCEEDED', 'the L1 table is above 32 MiB', 'l1Entries', header.l1Entries, 'LIM-003');
  }
  if (header.l1Entries < l1EntriesFor(header)) {
    const message = 'the L1 table is too small for the disk';
    throw fault('BAD_FIELD', message, 'l1Entries', header.l1Entries, 'HDR-027');
  }
}

/** L1 entries that a disk needs. [HDR-027] */
export function l1EntriesFor(header: {
  readonly sizeBytes: number;
  readonly clusterBits: number;
  readonly incompatibleFeatures: bigint;
}): number {
  const extended = (header.incompatibleFeatures & incompatibleFeatures.extendedL2) !== 0n;
  const bytesPerL2Table = 2 ** (2 * header.clusterBits - (extended ? 4 : 3));
  return Math.ceil(header.sizeBytes / bytesPerL2Table);
}

function checkRefcountTable(header: Qcow2Header): void {
  const clusters = header.refcountTableClusters;
  if (clusters === 0) {
    throw fault('BAD_FIELD', 'the image has no refcount table', 'refcountTableClusters', 0, 'HDR-031');
  }
  if (clusters * 2 ** header.clusterBits > qcow2Limits.maxRefcountTableBytes) {
    const message = 'the refcount table is above 8 MiB';
    throw fault('LIMIT_EXCEEDED', message, 'refcountTableClusters', clusters, 'LIM-004');
  }
}

function checkSnapshotTable(header: Qcow2Header): void {
  if (header.snapshotCount > qcow2Limits.maxSnapshots) {
    const message = 'more than 65536 snapshots';
    throw fault('LIMIT_EXCEEDED', message, 'snapshotCount', header.snapshotCount, 'LIM-006');
  }
}

interface TableRange {
  readonly field: HeaderField;
  readonly start: number;
  readonly end: number;
}

function tablesOf(header: Qcow2Header): TableRange[] {
  const clusterBytes = 2 ** header.clusterBits;
  const tables: TableRange[] = [];
  const add = (field: HeaderField, start: number, lengthBytes: number): void => {
    if (lengthBytes > 0) tables.push({ field, start, end: start + lengthBytes });
  };
  add('l1Offset', header.l1Offset, header.l1Entries * mappingSizes.l1EntryBytes);
  add('refcountTableOffset', header.refcountTableOffset, header.refcountTableClusters * clusterBytes);
  add('snapshotsOffset', header.snapshotsOffset, header.snapshotCount * snapshotHeadLayout.sizeBytes);
  return tables;
}

/** [HDR-032]; the snapshot table counts with the least that its entries take. */
function checkTablesDisjoint(header: Qcow2Header): void {
  let previousEnd = 2 ** header.clusterBits;
  const tables = tablesOf(header).sort((a, b) => a.start - b.start);
  for (const { field, start, end } of tables) {
    if (end > qcow2Limits.maxOffset) {
      throw fault('OFFSET_TOO_LARGE', 'a table reaches beyond 2^53 - 1', field, start, 'LIM-015');
    }
    if (start < previousEnd) {
      throw fault('OVERLAP', 'a table overlaps the header or another table', field, start, 'HDR-032');
    }
    previousEnd = end;
  }
}

/** The bitmaps bit promises that the extension is there and sound. Without the bit its data is not looked at. */
function checkBitmapsExtension(header: Qcow2Header): void {
  if ((header.autoclearFeatures & autoclearFeatures.bitmaps) === 0n) return;
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
  if (data === undefined) {
    const message = 'the bitmaps bit without the bitmaps extension';
    throw fault('BAD_FIELD', message, 'autoclearFeatures', header.autoclearFeatures, 'FEA-010');
  }
  const hostOffset = extensionDataOffset(header, headerExtensionTypes.bitmaps);
  decodeBitmapsExtension(data, { clusterBytes: 2 ** header.clusterBits, hostOffset });
}

function checkEncryption(header: Qcow2Header): void {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.fullDiskEncryption);
  if ((data !== undefined) !== (header.cryptMethod === cryptMethods.luks)) {
    const message = 'an encryption header is there with LUKS, and only then';
    throw fault('BAD_FIELD', message, 'cryptMethod', header.cryptMethod, 'FDE-002');
  }
  if (data === undefined) return;
  const hostOffset = extensionDataOffset(header, headerExtensionTypes.fullDiskEncryption);
  decodeEncryptionHeaderPointer(data, { clusterBytes: 2 ** header.clusterBits, hostOffset });
}

/** Host offset of the data of an extension, for errors. */
function extensionDataOffset(header: Qcow2Header, type: number): number {
  let at = header.headerLengthBytes;
  for (const extension of header.extensions) {
    if (extension.type === type) return at + 8;
    at += 8 + Math.ceil(extension.data.length / 8) * 8;
  }
  return at;
}

function fault(
  code: FaultCode,
  message: string,
  field: HeaderField,
  value: number | bigint,
  clause: string,
): FormatError {
  return new FormatError(code, message, { hostOffset: fieldOffsets.get(field), field, value, clause });
}
