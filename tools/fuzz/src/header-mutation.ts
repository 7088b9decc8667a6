/** Mutations of an image's first cluster: header fields, header extensions and what they hold, the backing name. */
import {
  bitmapsExtensionLayout,
  encryptionHeaderPointerLayout,
  featureNameLayout,
  headerExtensionHeadLayout,
  headerExtensionTypes,
  headerLayout,
  journalExtensionEntryLayout,
  journalExtensionLayout,
  type Layout,
} from '@qcow2/spec';
import type { Random } from './random.ts';
import { mutateBytes, mutateField, put } from './values.ts';

const extensionHeadBytes = headerExtensionHeadLayout.sizeBytes;
const types: readonly number[] = Object.values(headerExtensionTypes);

interface RawExtension {
  readonly at: number;
  readonly type: number;
  readonly dataBytes: number;
  /** Head, data and padding. */
  readonly wholeBytes: number;
}

/** One mutation of `bytes`, the first cluster or the beginning of it. */
export function mutateHeader(bytes: Uint8Array, random: Random, hints: readonly number[]): void {
  const extensions = extensionsOf(bytes);
  const one = extensions.length === 0 ? undefined : random.pick(extensions);
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
    case 3:
      mutateField(bytes, 0, headerLayout, random, hints);
      return;
    case 4:
      if (one !== undefined) {
        mutateField(bytes, one.at, headerExtensionHeadLayout, random, [...types, ...hints]);
        return;
      }
      break;
    case 5:
    case 6:
      if (one !== undefined) {
        mutateData(bytes, one, random, hints);
        return;
      }
      break;
    case 7:
      rearrange(bytes, extensions, random);
      return;
    case 8: {
      // Another header length moves where extensions begin.
      put(bytes, 100, 4, BigInt(random.pick([72, 100, 104, 105, 108, 112, 120, 4096, 2 ** 31, ...hints])));
      return;
    }
    default:
      break;
  }
  mutateBytes(bytes.subarray(0, Math.min(bytes.length, 512)), random);
}

function extensionsOf(bytes: Uint8Array): RawExtension[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 112) return [];
  let at = view.getUint32(4) === 2 ? 72 : view.getUint32(100);
  const found: RawExtension[] = [];
  while (at + extensionHeadBytes <= bytes.length && found.length < 16) {
    const type = view.getUint32(at);
    const dataBytes = view.getUint32(at + 4);
    if (type === 0 || dataBytes > bytes.length - at - extensionHeadBytes) break;
    const wholeBytes = extensionHeadBytes + Math.ceil(dataBytes / 8) * 8;
    found.push({ at, type, dataBytes, wholeBytes });
    at += wholeBytes;
  }
  return found;
}

function mutateData(bytes: Uint8Array, one: RawExtension, random: Random, hints: readonly number[]): void {
  const at = one.at + extensionHeadBytes;
  const layouts: Partial<Record<number, readonly [Layout, number]>> = {
    [headerExtensionTypes.featureNameTable]: [
      featureNameLayout,
      featureNameLayout.sizeBytes * random.below(one.dataBytes / featureNameLayout.sizeBytes),
    ],
    [headerExtensionTypes.bitmaps]: [bitmapsExtensionLayout, 0],
    [headerExtensionTypes.fullDiskEncryption]: [encryptionHeaderPointerLayout, 0],
    [headerExtensionTypes.journal]: random.chance(4)
      ? [journalExtensionLayout, 0]
      : [journalExtensionEntryLayout, journalExtensionLayout.sizeBytes],
  };
  const known = layouts[one.type];
  if (known !== undefined && random.below(8) > 0) {
    mutateField(bytes, at + known[1], known[0], random, hints);
    return;
  }
  if (one.dataBytes > 0) mutateBytes(bytes.subarray(at, at + one.dataBytes), random);
}

/** Leave out, double, swap or add an extension; what follows moves up or down, and may be pushed out. */
function rearrange(bytes: Uint8Array, extensions: readonly RawExtension[], random: Random): void {
  const first = extensions[0];
  const last = extensions.at(-1);
  const start = first?.at ?? 112;
  const end = last === undefined ? start : last.at + last.wholeBytes;
  const pieces = extensions.map(({ at, wholeBytes }) => bytes.slice(at, at + wholeBytes));
  const index = random.below(pieces.length);
  const other = random.below(pieces.length + 1);
  const piece = pieces[index];
  const how = random.below(4);
  if (how === 0 && piece !== undefined) pieces.splice(index, 1);
  else if (how === 1 && piece !== undefined) pieces.splice(other, 0, piece);
  else if (how === 2 && piece !== undefined) pieces.splice(other, 0, ...pieces.splice(index, 1));
  else {
    const added = new Uint8Array(extensionHeadBytes + 8 * random.below(12));
    random.fill(added);
    put(added, 0, 4, BigInt(random.pick(types)));
    put(added, 4, 4, BigInt(added.length - extensionHeadBytes - random.below(2)));
    pieces.splice(other, 0, added);
  }
  bytes.fill(0, start, Math.min(bytes.length, end));
  let at = start;
  for (const one of pieces) {
    if (at + one.length > bytes.length) break;
    bytes.set(one, at);
    at += one.length;
  }
}
