/**
 * How an image of the profile draft-2013 names its journal: three places of the header that mean something else
 * today (JD13-BIND-…).
 *
 * A header can not say by itself which of the two it means: that is told by what stands at the journal offset. So
 * who opens an image asks `peekDraftBinding`, looks there, and then decodes with `decodeDraftImageHeader` or with
 * `decodeHeader`. The decoded value has today's fields free of the draft's: the binding is a value of its own.
 */
import { draftJournal, qcow2Magic } from '@qcow2/spec';

export interface DraftBinding {
  /** Cluster-aligned host offset of the journal. */
  readonly hostOffset: number;
  /** Incompatible bit 2: the journal must be replayed before anything else is read. */
  readonly dirty: boolean;
  /**
   * Autoclear bit 63: no writer that does not know the journal has been here. A clean image that has it has bit 0
   * clear, which programs of today take for a promise of bitmaps [JD13-BIND-006].
   */
  readonly sealed: boolean;
}

const incompatibleAt = 72;
const compatibleAt = 80;
const autoclearAt = 88;
const headerLengthAt = 100;
const { journalOffsetAt, minHeaderLengthBytes } = draftJournal;
const dirtyMask = 1n << BigInt(draftJournal.dirtyBit);
const validMask = 1n << BigInt(draftJournal.validBit);
const sealMask = 1n << BigInt(draftJournal.sealBit);

/**
 * What the three places say, if the header may be one of the profile: version 3, long enough, autoclear bit 0 or 63 set.
 * The offset is 0 where it can not be one: beyond 2^53 - 1, or not at a cluster's start. Never throws.
 */
export function peekDraftBinding(bytes: Uint8Array): DraftBinding | undefined {
  if (bytes.length < minHeaderLengthBytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== qcow2Magic || view.getUint32(4) < 3) return undefined;
  if (view.getUint32(headerLengthAt) < minHeaderLengthBytes) return undefined;
  const autoclear = view.getBigUint64(autoclearAt);
  if ((autoclear & (validMask | sealMask)) === 0n) return undefined;
  const offset = view.getBigUint64(journalOffsetAt);
  const clusterBytes = 2n ** BigInt(Math.min(view.getUint32(20), 63));
  const usable = offset <= BigInt(Number.MAX_SAFE_INTEGER) && offset % clusterBytes === 0n;
  return {
    hostOffset: usable ? Number(offset) : 0,
    dirty: (view.getBigUint64(incompatibleAt) & dirtyMask) !== 0n,
    sealed: (autoclear & sealMask) !== 0n,
  };
}

/** The header cluster without the draft's binding: what `decodeHeader` takes. A copy. */
export function withoutDraftBinding(bytes: Uint8Array): Uint8Array {
  const plain = bytes.slice();
  const view = new DataView(plain.buffer);
  view.setBigUint64(incompatibleAt, view.getBigUint64(incompatibleAt) & ~dirtyMask);
  view.setBigUint64(autoclearAt, view.getBigUint64(autoclearAt) & ~validMask & ~sealMask);
  view.setBigUint64(journalOffsetAt, 0n);
  return plain;
}

/** Write a binding into an encoded header, whose three places are free. The header has 112 bytes or more. */
export function writeDraftBinding(bytes: Uint8Array, binding: DraftBinding): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const masks = {
    incompatibleFeatures: view.getBigUint64(incompatibleAt),
    compatibleFeatures: view.getBigUint64(compatibleAt),
    autoclearFeatures: view.getBigUint64(autoclearAt),
  };
  bytes.set(encodeDraftFeatures(masks, binding), incompatibleAt);
  view.setBigUint64(journalOffsetAt, BigInt(binding.hostOffset));
}

/** The three masks of a decoded header. */
interface FeatureMasks {
  readonly incompatibleFeatures: bigint;
  readonly compatibleFeatures: bigint;
  readonly autoclearFeatures: bigint;
}

/**
 * The three feature masks as they stand in the file from byte 72 on, from those of a decoded header: what changes when
 * the image becomes dirty or clean, within one sector.
 */
export function encodeDraftFeatures(
  masks: FeatureMasks,
  { dirty, sealed }: Pick<DraftBinding, 'dirty' | 'sealed'>,
): Uint8Array {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  const seal = sealed ? sealMask : 0n;
  const valid = dirty || !sealed ? validMask : 0n;
  view.setBigUint64(0, dirty ? masks.incompatibleFeatures | dirtyMask : masks.incompatibleFeatures);
  view.setBigUint64(8, masks.compatibleFeatures);
  view.setBigUint64(16, masks.autoclearFeatures | seal | valid);
  return bytes;
}
