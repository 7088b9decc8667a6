/**
 * The header extension area, between the end of the header and the backing file name (or the end of the
 * first cluster), and the data of the extensions that the format defines.
 *
 * The area is a list in order. What we do not know stays in it, data untouched, and is written back.
 */
import {
  bitmapsExtensionLayout,
  type Decoded,
  encryptionHeaderPointerLayout,
  FormatError,
  headerExtensionHeadLayout,
  headerExtensionTypes,
  qcow2Limits,
} from '@qcow2/spec';
import { compileLayout, type LayoutOptions } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';

export interface HeaderExtension {
  readonly type: number;
  /** Data without padding. */
  readonly data: Uint8Array;
}

export interface HeaderExtensionArea {
  readonly extensions: HeaderExtension[];
  /** Position behind the end marker, or where the area ends without one. */
  readonly endsAt: number;
}

/** Where a piece of extension data came from, for errors; and the cluster size, for its checks. */
export type ExtensionDataOptions = Pick<LayoutOptions, 'hostOffset' | 'clusterBytes'>;
export type BitmapsExtension = Decoded<typeof bitmapsExtensionLayout>;
export type EncryptionHeaderPointer = Decoded<typeof encryptionHeaderPointerLayout>;

const headCodec = compileLayout(headerExtensionHeadLayout);
const bitmapsCodec = compileLayout(bitmapsExtensionLayout);
const encryptionCodec = compileLayout(encryptionHeaderPointerLayout);
const headBytes = headerExtensionHeadLayout.sizeBytes;
const knownTypes: ReadonlySet<number> = new Set(Object.values(headerExtensionTypes));

/**
 * Decode the extensions that stand in `bytes` (the start of the image) from `startsAt` to `areaEndsAt`. The
 * data of each is copied.
 *
 * @throws FormatError TRUNCATED [EXT-005], OVERLAP [EXT-006], BAD_FIELD for a type that comes twice [EXT-007]
 */
export function decodeHeaderExtensions(
  bytes: Uint8Array,
  startsAt: number,
  areaEndsAt: number,
): HeaderExtensionArea {
  const extensions: HeaderExtension[] = [];
  const seen = new Set<number>();
  let at = startsAt;
  while (at < areaEndsAt) {
    if (at + headBytes > areaEndsAt) throw beyondArea(at, headBytes);
    if (at + headBytes > bytes.length) throw cutShort(at, headBytes);
    const { type, lengthBytes } = headCodec.decode(bytes, { at });
    const dataAt = at + headBytes;
    if (type === headerExtensionTypes.end) return { extensions, endsAt: dataAt };
    if (lengthBytes > areaEndsAt - dataAt) throw beyondArea(at, lengthBytes);
    if (dataAt + lengthBytes > bytes.length) throw cutShort(at, lengthBytes);
    if (knownTypes.has(type) && seen.has(type)) {
      const context = { hostOffset: at, field: 'type', value: type, clause: 'EXT-007' };
      throw new FormatError('BAD_FIELD', 'a header extension that is there twice', context);
    }
    seen.add(type);
    extensions.push({ type, data: bytes.slice(dataAt, dataAt + lengthBytes) });
    at = dataAt + paddedBytes(lengthBytes);
  }
  return { extensions, endsAt: areaEndsAt };
}

/** The area as bytes: extensions in order, each padded with zeros to a multiple of 8, then the end marker. */
export function encodeHeaderExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const dataBytes = extensions.reduce((sum, { data }) => sum + headBytes + paddedBytes(data.length), 0);
  const bytes = new Uint8Array(dataBytes + headBytes);
  let at = 0;
  for (const { type, data } of extensions) {
    headCodec.encode({ type, lengthBytes: data.length }, bytes, { at });
    bytes.set(data, at + headBytes);
    at += headBytes + paddedBytes(data.length);
  }
  headCodec.encode({ type: headerExtensionTypes.end, lengthBytes: 0 }, bytes, { at });
  return bytes;
}

/** The data of the first extension of a type, or undefined. */
export function findHeaderExtension(
  extensions: readonly HeaderExtension[],
  type: number,
): Uint8Array | undefined {
  return extensions.find((extension) => extension.type === type)?.data;
}

/** Format name of the backing file, such as `raw`. [EXT-010] */
export function decodeBackingFormat(data: Uint8Array): string {
  return decodeName(data);
}

export function encodeBackingFormat(format: string): HeaderExtension {
  return { type: headerExtensionTypes.backingFormat, data: encodeName(format) };
}

/** Name of the external data file. A name alone opens nothing: that is for the caller to decide. [EXT-011] */
export function decodeExternalDataFile(data: Uint8Array): string {
  return decodeName(data);
}

export function encodeExternalDataFile(name: string): HeaderExtension {
  return { type: headerExtensionTypes.externalDataFile, data: encodeName(name) };
}

/**
 * Where the bitmap directory is.
 *
 * @throws FormatError as the layout demands [BMX-001 to BMX-005]; LIMIT_EXCEEDED [LIM-010]
 */
export function decodeBitmapsExtension(
  data: Uint8Array,
  options: ExtensionDataOptions = {},
): BitmapsExtension {
  requireLength(data, bitmapsExtensionLayout.sizeBytes, 'BMX-001', options);
  const extension = bitmapsCodec.decode(data, options);
  if (extension.directoryLengthBytes > qcow2Limits.maxBitmapDirectoryBytes) {
    throw new FormatError('LIMIT_EXCEEDED', 'a bitmap directory above the limit', {
      hostOffset: (options.hostOffset ?? 0) + 8,
      field: 'directoryLengthBytes',
      value: extension.directoryLengthBytes,
      clause: 'LIM-010',
    });
  }
  return extension;
}

/** @throws FormatError for a value that decode would refuse */
export function encodeBitmapsExtension(extension: BitmapsExtension, clusterBytes?: number): HeaderExtension {
  return {
    type: headerExtensionTypes.bitmaps,
    data: bitmapsCodec.encode(extension, undefined, { clusterBytes }),
  };
}

/**
 * Where the header of the encryption is.
 *
 * @throws FormatError as the layout demands [FDE-001 to FDE-004]; LIMIT_EXCEEDED [LIM-014]
 */
export function decodeEncryptionHeaderPointer(
  data: Uint8Array,
  options: ExtensionDataOptions = {},
): EncryptionHeaderPointer {
  requireLength(data, encryptionHeaderPointerLayout.sizeBytes, 'FDE-001', options);
  const pointer = encryptionCodec.decode(data, options);
  if (pointer.headerLengthBytes > qcow2Limits.maxEncryptionHeaderBytes) {
    throw new FormatError('LIMIT_EXCEEDED', 'an encryption header above the limit', {
      hostOffset: (options.hostOffset ?? 0) + 8,
      field: 'headerLengthBytes',
      value: pointer.headerLengthBytes,
      clause: 'LIM-014',
    });
  }
  return pointer;
}

/** @throws FormatError for a value that decode would refuse */
export function encodeEncryptionHeaderPointer(
  pointer: EncryptionHeaderPointer,
  clusterBytes?: number,
): HeaderExtension {
  const data = encryptionCodec.encode(pointer, undefined, { clusterBytes });
  return { type: headerExtensionTypes.fullDiskEncryption, data };
}

function paddedBytes(lengthBytes: number): number {
  return Math.ceil(lengthBytes / 8) * 8;
}

function requireLength(data: Uint8Array, bytes: number, clause: string, options: ExtensionDataOptions): void {
  if (data.length === bytes) return;
  throw new FormatError('BAD_FIELD', `the extension has ${data.length} bytes, not ${bytes}`, {
    hostOffset: options.hostOffset,
    field: 'lengthBytes',
    value: data.length,
    clause,
  });
}

function beyondArea(at: number, lengthBytes: number): FormatError {
  const context = { hostOffset: at, lengthBytes, field: 'lengthBytes', clause: 'EXT-006' };
  return new FormatError('OVERLAP', 'a header extension reaches beyond the extension area', context);
}

function cutShort(at: number, lengthBytes: number): FormatError {
  const context = { hostOffset: at, lengthBytes, field: 'extensions', clause: 'EXT-005' };
  return new FormatError('TRUNCATED', 'the header extension area has no end', context);
}
