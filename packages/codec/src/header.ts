/**
 * The first cluster of an image: header, header extensions, backing file name, in this order.
 *
 * decodeHeader proves everything that can be proven without reading further, so that nothing behind it
 * allocates by an unchecked size or follows a misaligned offset. It decodes what is legal, served by
 * the driver or not. encodeHeader makes the cluster anew: it places the backing file name behind the
 * extensions and keeps fields and extensions that nobody here knows.
 */
import {
  type Decoded,
  draftJournal,
  FormatError,
  headerLayout,
  headerUnknownAt,
  headerV2Bytes,
  headerV3MinBytes,
  qcow2Limits,
  qcow2Magic,
  refcountSizes,
  StateError,
  StorageError,
} from '@qcow2/spec';
import {
  type DraftBinding,
  peekDraftBinding,
  withoutDraftBinding,
  writeDraftBinding,
} from './draft-binding.ts';
import { decodeHeaderExtensions, encodeHeaderExtensions, type HeaderExtension } from './header-extension.ts';
import { checkHeader, checkTablesInFile } from './header-rules.ts';
import { compileLayout } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';

/** The header as a value. Offsets and lengths in bytes. */
export interface Qcow2Header {
  /** 2 or 3. */
  version: number;
  /** Where the backing file name stands; 0 without one. encodeHeader computes it. */
  backingFileOffset: number;
  /** Length of the backing file name; encodeHeader computes it. */
  backingFileLengthBytes: number;
  /** log2 of the cluster size, 9 to 21. */
  clusterBits: number;
  /** Size of the virtual disk. */
  sizeBytes: number;
  /** A value of `cryptMethods`. */
  cryptMethod: number;
  l1Entries: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  snapshotCount: number;
  snapshotsOffset: number;
  /** Feature masks; 0n in version 2. */
  incompatibleFeatures: bigint;
  compatibleFeatures: bigint;
  autoclearFeatures: bigint;
  /** log2 of the refcount width in bits, 0 to 6; 4 in version 2. */
  refcountOrder: number;
  /** 72 in version 2; 104 or more, a multiple of 8, in version 3. */
  headerLengthBytes: number;
  /** A value of `compressionTypes`, or one that is defined later; 0 where the field is absent. */
  compressionType: number;
  /** Header bytes from 105 on, which have no meaning here and are kept; empty where the header ends before. */
  unknownHeaderBytes: Uint8Array;
  /** In the order of the file, those of unknown type included, without the end marker. */
  extensions: HeaderExtension[];
  /** Bytes that are not UTF-8 stand as lone surrogates, see `decodeName`. */
  backingFileName?: string;
  /**
   * The journal of the profile draft-2013, in an image of that profile only. Its bits and its offset stand here
   * and not in the fields above, which keep today's meaning.
   */
  draftJournal?: DraftBinding;
}

type HeaderFields = Decoded<typeof headerLayout>;

const headerCodec = compileLayout(headerLayout);
/** Bytes that say how large the header's cluster is. */
const clusterSizeKnownAt = 24;

/**
 * Cluster size of an image, from its first 24 bytes: how much to read before `decodeHeader`.
 *
 * @throws FormatError TRUNCATED, BAD_MAGIC [HDR-001], BAD_FIELD [HDR-002] [HDR-005]
 */
export function decodeClusterBytes(bytes: Uint8Array): number {
  if (bytes.length < clusterSizeKnownAt) throw tooShort(bytes.length, clusterSizeKnownAt);
  const head = new Uint8Array(headerV2Bytes);
  head.set(bytes.subarray(0, clusterSizeKnownAt));
  return 2 ** headerCodec.decode(head, { version: 2 }).clusterBits;
}

/**
 * Decode and validate the header of an image.
 *
 * @param bytes the first cluster of the image, or as much of it as the file has. Not kept: names, extensions and
 *   unknown fields are copies.
 * @param fileSizeBytes where given, the tables that the header names must begin and end in the file [HDR-033]
 * @throws FormatError with code, absolute host offset, field and clause; no size in the header has
 *   been used to allocate anything before it was checked
 */
export function decodeHeader(bytes: Uint8Array, fileSizeBytes?: number | undefined): Qcow2Header {
  const clusterBytes = decodeClusterBytes(bytes);
  const version = headerVersion(bytes);
  const { fields, endsAt } = decodeFields(bytes, version, clusterBytes);
  const isV2 = version === 2;
  const header: Qcow2Header = {
    version,
    backingFileOffset: fields.backingFileOffset,
    backingFileLengthBytes: fields.backingFileOffset === 0 ? 0 : fields.backingFileLengthBytes,
    clusterBits: fields.clusterBits,
    sizeBytes: fields.sizeBytes,
    cryptMethod: fields.cryptMethod,
    l1Entries: fields.l1Entries,
    l1Offset: fields.l1Offset,
    refcountTableOffset: fields.refcountTableOffset,
    refcountTableClusters: fields.refcountTableClusters,
    snapshotCount: fields.snapshotCount,
    snapshotsOffset: fields.snapshotsOffset,
    incompatibleFeatures: fields.incompatibleFeatures,
    compatibleFeatures: fields.compatibleFeatures,
    autoclearFeatures: fields.autoclearFeatures,
    refcountOrder: isV2 ? refcountSizes.version2RefcountOrder : fields.refcountOrder,
    headerLengthBytes: endsAt,
    compressionType: fields.compressionType ?? 0,
    unknownHeaderBytes: bytes.slice(Math.min(headerUnknownAt, endsAt), endsAt),
    extensions: [],
  };
  checkBackingFileName(header, clusterBytes);
  const areaEndsAt = header.backingFileOffset === 0 ? clusterBytes : header.backingFileOffset;
  header.extensions = decodeHeaderExtensions(bytes, endsAt, areaEndsAt).extensions;
  if (header.backingFileLengthBytes > 0) header.backingFileName = decodeBackingFileName(bytes, header);
  checkHeader(header);
  if (fileSizeBytes !== undefined) checkTablesInFile(header, fileSizeBytes);
  return header;
}

/**
 * As `decodeHeader`, for an image of the profile draft-2013: the caller has found its journal [JD13-BIND-004].
 *
 * @throws as `decodeHeader`
 */
export function decodeDraftImageHeader(bytes: Uint8Array, fileSizeBytes?: number | undefined): Qcow2Header {
  const header = decodeHeader(withoutDraftBinding(bytes), fileSizeBytes);
  const binding = peekDraftBinding(bytes);
  if (binding !== undefined && binding.hostOffset !== 0) header.draftJournal = binding;
  return header;
}

/**
 * Make the first cluster of an image: header, extensions, end marker, backing file name, zeros.
 * `backingFileOffset` and `backingFileLengthBytes` of the value are not read; they follow from the name.
 *
 * @returns one cluster, the caller's
 * @throws FormatError for a header that decodeHeader would refuse
 * @throws StorageError NO_SPACE where header, extensions and name do not fit one cluster [HDR-022]
 */
export function encodeHeader(header: Qcow2Header): Uint8Array {
  const name = encodeName(header.backingFileName ?? '');
  const area = encodeHeaderExtensions(header.extensions);
  const nameAt = header.headerLengthBytes + area.length;
  const placed: Qcow2Header = {
    ...header,
    backingFileOffset: name.length === 0 ? 0 : nameAt,
    backingFileLengthBytes: name.length,
  };
  if (header.draftJournal !== undefined && header.headerLengthBytes < draftJournal.minHeaderLengthBytes) {
    const context = { field: 'headerLengthBytes', value: header.headerLengthBytes, clause: 'JD13-BIND-003' };
    throw new StateError('INVALID_ARGUMENT', 'the header has no room for the journal offset', context);
  }
  const fields = encodableFields(placed);
  headerCodec.validate(fields, { version: header.version, clusterBytes: 2 ** header.clusterBits });
  const bytes = new Uint8Array(2 ** header.clusterBits);
  if (nameAt + name.length > bytes.length) {
    const context = { lengthBytes: nameAt + name.length, clause: 'HDR-022' };
    throw new StorageError('NO_SPACE', 'header, extensions and backing file name exceed a cluster', context);
  }
  checkBackingFileName(placed, bytes.length);
  checkHeader(placed);
  headerCodec.encode(fields, bytes, { version: header.version, endsAt: header.headerLengthBytes });
  if (header.headerLengthBytes > headerUnknownAt) bytes.set(header.unknownHeaderBytes, headerUnknownAt);
  if (header.draftJournal !== undefined) writeDraftBinding(bytes, header.draftJournal);
  bytes.set(area, header.headerLengthBytes);
  bytes.set(name, nameAt);
  return bytes;
}

function headerVersion(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(4);
}

function decodeFields(
  bytes: Uint8Array,
  version: number,
  clusterBytes: number,
): { fields: HeaderFields; endsAt: number } {
  if (version === 2) {
    if (bytes.length < headerV2Bytes) throw tooShort(bytes.length, headerV2Bytes);
    return { fields: headerCodec.decode(bytes, { version, clusterBytes }), endsAt: headerV2Bytes };
  }
  if (bytes.length < headerV3MinBytes) throw tooShort(bytes.length, headerV3MinBytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const endsAt = view.getUint32(100);
  if (endsAt < headerV3MinBytes) {
    throw lengthError(
      'BAD_FIELD',
      `a version 3 header has at least ${headerV3MinBytes} bytes`,
      endsAt,
      'HDR-019',
    );
  }
  if (endsAt > clusterBytes) {
    throw lengthError('BAD_FIELD', 'the header is longer than a cluster', endsAt, 'HDR-022');
  }
  if (endsAt > bytes.length)
    throw lengthError('TRUNCATED', 'the header ends before its length', endsAt, 'HDR-024');
  return { fields: headerCodec.decode(bytes, { version, clusterBytes, endsAt }), endsAt };
}

/** [HDR-003] [HDR-004] [HDR-028] */
function checkBackingFileName(header: Qcow2Header, clusterBytes: number): void {
  const { backingFileOffset: offset, backingFileLengthBytes: length } = header;
  if (offset === 0) return;
  if (length > qcow2Limits.maxBackingFileNameBytes) {
    throw new FormatError('BAD_FIELD', 'a backing file name of more than 1023 bytes', {
      hostOffset: 16,
      field: 'backingFileLengthBytes',
      value: length,
      clause: 'HDR-004',
    });
  }
  if (offset < header.headerLengthBytes || offset + length > clusterBytes) {
    throw new FormatError(
      'OVERLAP',
      'the backing file name is not between the header and the end of its cluster',
      {
        hostOffset: 8,
        field: 'backingFileOffset',
        value: offset,
        clause: 'HDR-028',
      },
    );
  }
}

function decodeBackingFileName(bytes: Uint8Array, header: Qcow2Header): string {
  const endsAt = header.backingFileOffset + header.backingFileLengthBytes;
  if (endsAt > bytes.length) {
    throw new FormatError('TRUNCATED', 'the backing file name is cut off', {
      hostOffset: header.backingFileOffset,
      field: 'backingFileName',
      lengthBytes: header.backingFileLengthBytes,
      clause: 'HDR-024',
    });
  }
  return decodeName(bytes.subarray(header.backingFileOffset, endsAt));
}

/** The value as the layout has it. Fields beyond `headerLengthBytes` must have the value that absence has. */
function encodableFields(header: Qcow2Header): HeaderFields {
  const hasAdditional = header.headerLengthBytes > headerV3MinBytes;
  const room = Math.max(0, header.headerLengthBytes - headerUnknownAt);
  const lengthFits = header.version === 2 ? header.headerLengthBytes === headerV2Bytes : true;
  if (
    !lengthFits ||
    header.unknownHeaderBytes.length > room ||
    (!hasAdditional && header.compressionType !== 0)
  ) {
    const context = { field: 'headerLengthBytes', value: header.headerLengthBytes, clause: 'HDR-019' };
    throw new StateError('INVALID_ARGUMENT', 'the header length does not hold what the header has', context);
  }
  const unknownFields = new Uint8Array(7);
  unknownFields.set(header.unknownHeaderBytes.subarray(0, 7));
  const fields: HeaderFields = {
    magic: qcow2Magic,
    ...header,
    compressionType: hasAdditional ? header.compressionType : undefined,
    unknownFields: hasAdditional ? unknownFields : undefined,
  };
  return fields;
}

function tooShort(lengthBytes: number, neededBytes: number): FormatError {
  const context = { hostOffset: 0, lengthBytes, field: 'header', clause: 'HDR-024' };
  return new FormatError('TRUNCATED', `an image header has at least ${neededBytes} bytes`, context);
}

function lengthError(
  code: 'BAD_FIELD' | 'TRUNCATED',
  message: string,
  value: number,
  clause: string,
): FormatError {
  return new FormatError(code, message, { hostOffset: 100, field: 'headerLengthBytes', value, clause });
}
