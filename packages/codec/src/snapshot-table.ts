/**
 * The snapshot table: entries of variable length, one after the other, each beginning at a multiple of 8.
 *
 * Extra data is kept whole: what is defined becomes fields, the rest stays as `unknownExtraData` and is
 * written back behind them.
 */
import {
  type Decoded,
  FormatError,
  mappingSizes,
  qcow2Limits,
  StateError,
  snapshotExtraLayout,
  snapshotHeadLayout,
} from '@qcow2/spec';
import { compileLayout } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';

export interface Snapshot {
  l1Offset: number;
  l1Entries: number;
  id: string;
  name: string;
  /** When it was taken: seconds since 1970 and nanoseconds. */
  dateSeconds: number;
  dateNanoseconds: number;
  /** How long the guest had run, in nanoseconds. */
  vmClockNanoseconds: bigint;
  /** Length of the VM state; from the extra data where it is there, else from the 32-bit field. */
  vmStateLengthBytes: number;
  /** The extra data has that length in 64 bits, as every entry of version 3 does. */
  vmStateInExtraData: boolean;
  /** Disk size of the snapshot; where the entry does not say it, it is that of the image. */
  diskSizeBytes?: number;
  /** Instruction count of record/replay; all ones if disabled. */
  instructionCount?: bigint;
  /** Extra data behind what is defined. */
  unknownExtraData: Uint8Array;
}

export interface SnapshotTableOptions {
  /** Host offset of the first byte of the buffer. */
  readonly hostOffset?: number | undefined;
  readonly clusterBytes?: number | undefined;
}

export interface DecodedSnapshot {
  readonly snapshot: Snapshot;
  /** Position behind the entry, without its padding. */
  readonly endsAt: number;
}

export interface SnapshotTable {
  readonly snapshots: Snapshot[];
  /** Bytes of the table, without padding behind the last entry. */
  readonly lengthBytes: number;
}

const headCodec = compileLayout(snapshotHeadLayout);
const extraCodec = compileLayout(snapshotExtraLayout);
const headBytes = snapshotHeadLayout.sizeBytes;

/**
 * Decode the table. `bytes` begins with it and may go on beyond it; how long it is only decoding tells.
 *
 * @throws FormatError TRUNCATED [SNP-018]: give more bytes, or there are none. LIMIT_EXCEEDED [LIM-003]
 *   [LIM-006] [LIM-007] [LIM-008]; BAD_ALIGNMENT [SNP-002]; OFFSET_TOO_LARGE
 */
export function decodeSnapshotTable(
  bytes: Uint8Array,
  count: number,
  options: SnapshotTableOptions = {},
): SnapshotTable {
  if (count > qcow2Limits.maxSnapshots) {
    throw limit('more than 65536 snapshots', 'snapshotCount', count, 'LIM-006', options.hostOffset ?? 0);
  }
  const snapshots: Snapshot[] = [];
  let endsAt = 0;
  for (let index = 0; index < count; index++) {
    const entry = decodeSnapshot(bytes, padded(endsAt), options);
    snapshots.push(entry.snapshot);
    endsAt = entry.endsAt;
    if (endsAt > qcow2Limits.maxSnapshotTableBytes) {
      throw limit('a snapshot table above 64 MiB', 'snapshots', endsAt, 'LIM-007', options.hostOffset ?? 0);
    }
  }
  return { snapshots, lengthBytes: endsAt };
}

/** Decode the entry at position `at`. @throws FormatError as `decodeSnapshotTable` */
export function decodeSnapshot(
  bytes: Uint8Array,
  at: number,
  options: SnapshotTableOptions = {},
): DecodedSnapshot {
  const head = headCodec.decode(bytes, { ...options, at });
  checkHead(head, (options.hostOffset ?? 0) + at);
  const extraAt = at + headBytes;
  const idAt = extraAt + head.extraDataLengthBytes;
  const nameAt = idAt + head.idLengthBytes;
  const endsAt = nameAt + head.nameLengthBytes;
  if (endsAt > bytes.length) {
    const context = {
      hostOffset: (options.hostOffset ?? 0) + at,
      lengthBytes: endsAt - at,
      field: 'snapshot',
      clause: 'SNP-018',
    };
    throw new FormatError('TRUNCATED', 'a snapshot table entry is cut off', context);
  }
  const extra = extraCodec.decode(bytes, { ...options, at: extraAt, endsAt: idAt });
  const snapshot: Snapshot = {
    l1Offset: head.l1Offset,
    l1Entries: head.l1Entries,
    id: decodeName(bytes.subarray(idAt, nameAt)),
    name: decodeName(bytes.subarray(nameAt, endsAt)),
    dateSeconds: head.dateSeconds,
    dateNanoseconds: head.dateNanoseconds,
    vmClockNanoseconds: head.vmClockNanoseconds,
    vmStateLengthBytes: extra.vmStateLengthBytes ?? head.vmStateLengthBytes32,
    vmStateInExtraData: extra.vmStateLengthBytes !== undefined,
    unknownExtraData: bytes.slice(extraAt + definedExtraBytes(extra), idAt),
  };
  if (extra.diskSizeBytes !== undefined) snapshot.diskSizeBytes = extra.diskSizeBytes;
  if (extra.instructionCount !== undefined) snapshot.instructionCount = extra.instructionCount;
  return { snapshot, endsAt };
}

/**
 * The table as bytes, each entry padded with zeros to a multiple of 8.
 *
 * @param version header version: entries of version 3 must have a disk size [SNP-015]
 * @throws FormatError for a value that decode would refuse
 * @throws StateError INVALID_ARGUMENT where a field is there and one before it is not, or version 3 lacks one
 */
export function encodeSnapshotTable(snapshots: readonly Snapshot[], version: number): Uint8Array {
  if (snapshots.length > qcow2Limits.maxSnapshots) {
    throw limit('more than 65536 snapshots', 'snapshotCount', snapshots.length, 'LIM-006', 0);
  }
  const entries = snapshots.map((snapshot) => encodeSnapshot(snapshot, version));
  const lengthBytes = entries.reduce((sum, entry) => sum + entry.length, 0);
  if (lengthBytes > qcow2Limits.maxSnapshotTableBytes) {
    throw limit('a snapshot table above 64 MiB', 'snapshots', lengthBytes, 'LIM-007', 0);
  }
  const bytes = new Uint8Array(lengthBytes);
  let at = 0;
  for (const entry of entries) {
    bytes.set(entry, at);
    at += entry.length;
  }
  return bytes;
}

function encodeSnapshot(snapshot: Snapshot, version: number): Uint8Array {
  const extra = encodableExtra(snapshot, version);
  const definedBytes = definedExtraBytes(extra);
  const id = encodeName(snapshot.id);
  const name = encodeName(snapshot.name);
  const head: SnapshotHead = {
    ...snapshot,
    idLengthBytes: id.length,
    nameLengthBytes: name.length,
    vmStateLengthBytes32: Math.min(snapshot.vmStateLengthBytes, 0xffffffff),
    extraDataLengthBytes: definedBytes + snapshot.unknownExtraData.length,
  };
  checkHead(head, 0);
  headCodec.validate(head);
  const extraEnd = headBytes + head.extraDataLengthBytes;
  const bytes = new Uint8Array(padded(extraEnd + id.length + name.length));
  headCodec.encode(head, bytes);
  extraCodec.encode(extra, bytes, { at: headBytes });
  bytes.set(snapshot.unknownExtraData, headBytes + definedBytes);
  bytes.set(id, extraEnd);
  bytes.set(name, extraEnd + id.length);
  return bytes;
}

type SnapshotHead = Decoded<typeof snapshotHeadLayout>;
type SnapshotExtra = Decoded<typeof snapshotExtraLayout>;

/** The defined extra data of an entry; it has no gaps, and what 32 bits can not hold needs it. [SNP-011] */
function encodableExtra(snapshot: Snapshot, version: number): SnapshotExtra {
  const { vmStateInExtraData, vmStateLengthBytes, diskSizeBytes, instructionCount } = snapshot;
  if (version >= 3 && diskSizeBytes === undefined)
    throw extraError('a version 3 snapshot has a disk size', 'SNP-015');
  if (diskSizeBytes !== undefined ? !vmStateInExtraData : instructionCount !== undefined) {
    throw extraError('the extra data of a snapshot has a gap', 'SNP-011');
  }
  if (!vmStateInExtraData && vmStateLengthBytes > 0xffffffff) {
    throw extraError('a VM state of 4 GiB or more needs extra data', 'SNP-012');
  }
  return {
    vmStateLengthBytes: vmStateInExtraData ? vmStateLengthBytes : undefined,
    diskSizeBytes,
    instructionCount,
  };
}

function extraError(message: string, clause: string): StateError {
  return new StateError('INVALID_ARGUMENT', message, { field: 'extraData', clause });
}

/** How far the extra data reaches in fields that are defined. */
function definedExtraBytes(extra: SnapshotExtra): number {
  if (extra.instructionCount !== undefined) return 24;
  if (extra.diskSizeBytes !== undefined) return 16;
  return extra.vmStateLengthBytes !== undefined ? 8 : 0;
}

function checkHead(head: SnapshotHead, hostOffset: number): void {
  if (head.extraDataLengthBytes > qcow2Limits.maxSnapshotExtraDataBytes) {
    const value = head.extraDataLengthBytes;
    throw limit(
      'snapshot extra data above 1024 bytes',
      'extraDataLengthBytes',
      value,
      'LIM-008',
      hostOffset + 36,
    );
  }
  if (head.l1Entries * mappingSizes.l1EntryBytes > qcow2Limits.maxL1TableBytes) {
    throw limit(
      'the L1 table of a snapshot above 32 MiB',
      'l1Entries',
      head.l1Entries,
      'LIM-003',
      hostOffset + 8,
    );
  }
}

function padded(position: number): number {
  return Math.ceil(position / 8) * 8;
}

function limit(
  message: string,
  field: string,
  value: number,
  clause: string,
  hostOffset: number,
): FormatError {
  return new FormatError('LIMIT_EXCEEDED', message, { hostOffset, field, value, clause });
}
