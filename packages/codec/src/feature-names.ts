/**
 * The feature name table, and the names of incompatible features that nobody here knows: so that a refusal
 * says "journal dirty" and not "bit 63".
 */
import {
  FormatError,
  featureNameLayout,
  featureTypes,
  headerExtensionTypes,
  incompatibleFeatureBits,
  StateError,
} from '@qcow2/spec';
import { reservedMask } from './bit-masks.ts';
import { type ExtensionDataOptions, findHeaderExtension, type HeaderExtension } from './header-extension.ts';
import { compileLayout } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';

export interface FeatureName {
  /** Which mask: a value of `featureTypes`. */
  readonly type: number;
  /** Bit in the mask, 0 to 63. */
  readonly bit: number;
  readonly name: string;
}

/** An incompatible feature that this library does not know. */
export interface UnknownFeature {
  readonly bit: number;
  /** From the image's feature name table, or "incompatible feature bit N". */
  readonly name: string;
}

const rowCodec = compileLayout(featureNameLayout);
const rowBytes = featureNameLayout.sizeBytes;
const nameBytes = 46;
const unknownMask = reservedMask(incompatibleFeatureBits);

/** @throws FormatError BAD_FIELD: a part of a row [FNT-001], an unknown mask [FNT-002], a bit above 63 [FNT-003] */
export function decodeFeatureNames(data: Uint8Array, options: ExtensionDataOptions = {}): FeatureName[] {
  if (data.length % rowBytes !== 0) {
    const context = {
      hostOffset: options.hostOffset,
      field: 'lengthBytes',
      value: data.length,
      clause: 'FNT-001',
    };
    throw new FormatError('BAD_FIELD', `a feature name table is a multiple of ${rowBytes} bytes`, context);
  }
  const names: FeatureName[] = [];
  for (let at = 0; at < data.length; at += rowBytes) {
    const row = rowCodec.decode(data, { at, hostOffset: options.hostOffset });
    names.push({ type: row.type, bit: row.bit, name: trimmedName(row.name) });
  }
  return names;
}

/** @throws StateError INVALID_ARGUMENT for a name of more than 46 bytes [FNT-004] */
export function encodeFeatureNames(names: readonly FeatureName[]): HeaderExtension {
  const data = new Uint8Array(names.length * rowBytes);
  names.forEach(({ type, bit, name }, index) => {
    const encoded = encodeName(name);
    if (encoded.length > nameBytes) {
      const context = { field: 'name', value: name, clause: 'FNT-004' };
      throw new StateError('INVALID_ARGUMENT', `a feature name has at most ${nameBytes} bytes`, context);
    }
    const padded = new Uint8Array(nameBytes);
    padded.set(encoded);
    rowCodec.encode({ type, bit, name: padded }, data, { at: index * rowBytes });
  });
  return { type: headerExtensionTypes.featureNameTable, data };
}

/**
 * Incompatible features of an image that have no name in the specification: the image may not be opened
 * [FEA-006]. Never throws: a damaged name table costs the names only.
 */
export function unknownIncompatibleFeatures(header: {
  readonly incompatibleFeatures: bigint;
  readonly extensions: readonly HeaderExtension[];
}): UnknownFeature[] {
  const unknown = header.incompatibleFeatures & unknownMask;
  if (unknown === 0n) return [];
  const names = incompatibleNames(
    findHeaderExtension(header.extensions, headerExtensionTypes.featureNameTable),
  );
  const features: UnknownFeature[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((unknown >> BigInt(bit)) & 1n) === 0n) continue;
    features.push({ bit, name: names.get(bit) ?? `incompatible feature bit ${bit}` });
  }
  return features;
}

function incompatibleNames(table: Uint8Array | undefined): Map<number, string> {
  const names = new Map<number, string>();
  if (table === undefined) return names;
  for (let at = 0; at + rowBytes <= table.length; at += rowBytes) {
    const name = trimmedName(table.subarray(at + 2, at + rowBytes));
    if (table[at] === featureTypes.incompatible && name !== '') names.set(table[at + 1] ?? 0, name);
  }
  return names;
}

function trimmedName(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decodeName(end === -1 ? bytes : bytes.subarray(0, end));
}
