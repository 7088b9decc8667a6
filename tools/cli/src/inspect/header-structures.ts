/** The first cluster of an image, field by field: header, extensions, the backing file's name. */
import {
  autoclearFeatureBits,
  bitmapsExtensionLayout,
  compatibleFeatureBits,
  encryptionHeaderPointerLayout,
  featureNameLayout,
  headerExtensionHeadLayout,
  headerExtensionTypes,
  headerLayout,
  headerV2Bytes,
  incompatibleFeatureBits,
  journalExtensionEntryLayout,
  journalExtensionLayout,
  type Layout,
} from '@qcow2/spec';
import { formatSize } from '../sizes.ts';
import {
  bitNames,
  bytesField,
  type DecodedField,
  type DecodedStructure,
  decodedStructure,
  type Meanings,
} from './decoded-structure.ts';

const sizeText = (value: number | bigint): string => formatSize(Number(value));
const powerText = (value: number | bigint): string | undefined =>
  value <= 63 ? formatSize(2 ** Number(value)) : undefined;

/** The word for a number, by a table of numbers by their words. */
export function wordOf(
  words: Readonly<Record<string, number>>,
): (value: number | bigint) => string | undefined {
  return (value) => Object.entries(words).find(([, number]) => number === Number(value))?.[0];
}

const headerMeanings: Meanings = {
  clusterBits: powerText,
  sizeBytes: sizeText,
  cryptMethod: wordOf({ none: 0, aes: 1, luks: 2 }),
  incompatibleFeatures: bitNames(incompatibleFeatureBits),
  compatibleFeatures: bitNames(compatibleFeatureBits),
  autoclearFeatures: bitNames(autoclearFeatureBits),
  refcountOrder: (value) => (value <= 6 ? `${2 ** Number(value)} bits` : undefined),
  compressionType: wordOf({ zlib: 0, zstd: 1 }),
};

/** What a damaged header says is used as far as it goes: these are read without the checks of a decoder. */
export interface RawHeader {
  readonly version: number;
  readonly clusterBytes: number;
  readonly headerLengthBytes: number;
  readonly backingFile: { readonly offset: number; readonly lengthBytes: number } | undefined;
}

const clusterBitsAt = 20;
const [minClusterBits, maxClusterBits] = [9, 21];

/** @param bytes at least the 112 bytes of a header, zeros behind the end of the file */
export function rawHeader(bytes: Uint8Array): RawHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const version = view.getUint32(4);
  const bits = Math.min(maxClusterBits, Math.max(minClusterBits, view.getUint32(clusterBitsAt)));
  const clusterBytes = 2 ** bits;
  const offset = Number(view.getBigUint64(8));
  const lengthBytes = view.getUint32(16);
  return {
    version,
    clusterBytes,
    headerLengthBytes: version < 3 ? headerV2Bytes : view.getUint32(100),
    backingFile: offset === 0 ? undefined : { offset, lengthBytes },
  };
}

/** @param bytes the first cluster, or what the file has of it */
export function* headerStructures(bytes: Uint8Array, raw: RawHeader): Generator<DecodedStructure> {
  const { version, clusterBytes, headerLengthBytes, backingFile } = raw;
  yield decodedStructure(headerLayout, bytes, {
    title: 'header',
    hostOffset: 0,
    version,
    clusterBytes,
    endsAt: Math.min(headerLengthBytes, headerLayout.sizeBytes),
    meanings: headerMeanings,
  });
  const areaEndsAt = backingFile === undefined ? bytes.length : Math.min(backingFile.offset, bytes.length);
  yield* extensionStructures(bytes, headerLengthBytes, areaEndsAt, clusterBytes);
  if (backingFile !== undefined && backingFile.offset < bytes.length) yield backingName(bytes, backingFile);
}

function backingName(bytes: Uint8Array, place: NonNullable<RawHeader['backingFile']>): DecodedStructure {
  const name = bytes.subarray(place.offset, place.offset + place.lengthBytes);
  const clause = 'HDR-003';
  const field = bytesField('name', name, { hostOffset: place.offset, clause, text: textOf(name) });
  const { hostOffset, lengthBytes } = field;
  return { title: 'backing file name', hostOffset, lengthBytes, document: 'qcow2', clause, fields: [field] };
}

/** Extensions until their end marker, the area's end, or one that reaches beyond it. */
function* extensionStructures(
  bytes: Uint8Array,
  startsAt: number,
  areaEndsAt: number,
  clusterBytes: number,
): Generator<DecodedStructure> {
  const headBytes = headerExtensionHeadLayout.sizeBytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = startsAt; at + headBytes <= areaEndsAt; ) {
    const type = view.getUint32(at);
    const lengthBytes = view.getUint32(at + 4);
    const dataAt = at + headBytes;
    const isWhole = lengthBytes <= areaEndsAt - dataAt;
    const data = isWhole ? bytes.subarray(dataAt, dataAt + lengthBytes) : bytes.subarray(dataAt, dataAt);
    const name = extensionNames.get(type) ?? 'unknown';
    const structure = decodedStructure(headerExtensionHeadLayout, bytes, {
      title: `header extension: ${name}`,
      at,
      hostOffset: 0,
      meanings: { type: (value) => `0x${value.toString(16).padStart(8, '0')}` },
      more: isWhole ? dataFields(type, data, dataAt) : [],
    });
    if (isWhole) yield structure;
    else yield { ...structure, problem: { message: 'reaches beyond the extension area', clause: 'EXT-006' } };
    if (isWhole) yield* dataStructures(type, data, dataAt, clusterBytes);
    if (type === headerExtensionTypes.end || !isWhole) return;
    at = dataAt + Math.ceil(lengthBytes / 8) * 8;
  }
}

const extensionNames = new Map<number, string>([
  [headerExtensionTypes.end, 'end of the extensions'],
  [headerExtensionTypes.backingFormat, 'backing file format'],
  [headerExtensionTypes.featureNameTable, 'feature name table'],
  [headerExtensionTypes.bitmaps, 'bitmaps'],
  [headerExtensionTypes.fullDiskEncryption, 'full disk encryption header'],
  [headerExtensionTypes.externalDataFile, 'external data file'],
  [headerExtensionTypes.journal, 'journal'],
]);

/** Data that has no layout: text, or what nobody knows. */
function dataFields(type: number, data: Uint8Array, hostOffset: number): DecodedField[] {
  if (data.length === 0) return [];
  if (type === headerExtensionTypes.backingFormat) {
    return [bytesField('format', data, { hostOffset, clause: 'EXT-010', text: textOf(data) })];
  }
  if (type === headerExtensionTypes.externalDataFile) {
    return [bytesField('name', data, { hostOffset, clause: 'EXT-011', text: textOf(data) })];
  }
  if (extensionNames.has(type)) return [];
  return [bytesField('data', data, { hostOffset, clause: 'EXT-008' })];
}

function* dataStructures(
  type: number,
  data: Uint8Array,
  hostOffset: number,
  clusterBytes: number,
): Generator<DecodedStructure> {
  const rows = function* (layout: Layout, title: string, from: number, meanings?: Meanings) {
    for (let at = from; at + layout.sizeBytes <= data.length; at += layout.sizeBytes) {
      const number = (at - from) / layout.sizeBytes;
      const endsAt = at + layout.sizeBytes;
      const place = { at, endsAt, hostOffset, clusterBytes };
      yield decodedStructure(layout, data, { title: `${title} ${number}`, ...place, meanings });
    }
  };
  switch (type) {
    case headerExtensionTypes.featureNameTable:
      for (const row of rows(featureNameLayout, 'feature name', 0, featureMeanings)) yield namedRow(row);
      break;
    case headerExtensionTypes.bitmaps:
      yield decodedStructure(bitmapsExtensionLayout, data, {
        title: 'bitmaps extension',
        hostOffset,
        clusterBytes,
      });
      break;
    case headerExtensionTypes.fullDiskEncryption:
      yield decodedStructure(encryptionHeaderPointerLayout, data, {
        title: 'encryption header pointer',
        hostOffset,
        clusterBytes,
      });
      break;
    case headerExtensionTypes.journal:
      yield decodedStructure(journalExtensionLayout, data, { title: 'journal extension', hostOffset });
      yield* rows(journalExtensionEntryLayout, 'journal', journalExtensionLayout.sizeBytes, {
        kind: wordOf({ main: 1, other: 2 }),
        lengthBytes: sizeText,
      });
      break;
  }
}

const featureMeanings: Meanings = { type: wordOf({ incompatible: 0, compatible: 1, autoclear: 2 }) };

/** The name of a feature is text. */
function namedRow(row: DecodedStructure): DecodedStructure {
  const fields = row.fields.map((field) => {
    if (field.name !== 'name' || typeof field.value !== 'string') return field;
    return { ...field, meaning: JSON.stringify(paddedText(Buffer.from(field.value, 'hex'))) };
  });
  return { ...row, fields };
}

/** Text that ends at its first zero byte. */
export function paddedText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return textOf(end < 0 ? bytes : bytes.subarray(0, end));
}

/** What is no UTF-8 is shown with replacement characters: nothing is opened by this name. */
export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
