/**
 * Another version of the format for an image, lazy refcounts or none, and what it says of its data file: fields of the header.
 *
 * Version 2 has no zero clusters, so for the way down they are made what version 2 can say first: nothing, where nothing is below, or data. The disk shows the same at
 * every moment.
 *
 * Crash argument. What becomes of zero clusters is an ordinary change of each: a crash leaves it or not, and the disk as it is. When all is durable, and the image
 * at rest, the header is replaced in steps (`header-update.ts`): a crash leaves the old version or the new one. Everything that the other version could not read is
 * refused before anything is written.
 */
import type { BlockDevice, Extent } from '@qcow2/block-device';
import { encodeExternalDataFile, type Qcow2Header, type Snapshot } from '@qcow2/codec';
import {
  autoclearFeatures,
  compatibleFeatures,
  headerExtensionTypes,
  incompatibleFeatures,
  StateError,
  UnsupportedFeatureError,
} from '@qcow2/spec';

export interface HeaderAmendment {
  /** 2 (compat 0.10) or 3 (compat 1.1). */
  readonly version?: 2 | 3;
  readonly lazyRefcounts?: boolean;
  /** 1 to 64, a power of two (`refcount-width.ts`). */
  readonly refcountBits?: number;
  /** Of an image with an external data file: what it says of that. */
  readonly dataFile?: DataFileAmendment;
}

/** What is not given stays as it is. */
export interface DataFileAmendment {
  /** Stored, and not followed; '': none, so that whoever opens the image has to say which it is. */
  readonly name?: string;
  /** It need not stay valid as a raw image any more. There is no way back: its holes would have to be zeros. */
  readonly raw?: false;
}

/**
 * Refcounts of the width that version 2 has before it is version 2, any other when it is version 3.
 * @throws UNSUPPORTED_OPERATION, INVALID_ARGUMENT, NO_SPACE
 */
export async function amendImage(
  image: ZeroHolder,
  amendment: HeaderAmendment,
  changeWidth: (bits: number) => Promise<void>,
  rewriteHeader: (step: (header: Qcow2Header) => void) => Promise<void>,
): Promise<void> {
  checkAmendment(image.header, amendment);
  const { version, refcountBits = 2 ** image.header.refcountOrder } = amendment;
  if (version === 2 && image.header.version > 2) await checkSnapshots(image);
  if (version === 2) await changeWidth(refcountBits);
  if (version === 2 && image.header.version > 2) await expandZeros(image);
  for (const step of amendmentSteps(amendment)) await rewriteHeader(step);
  if (version !== 2) await changeWidth(refcountBits);
}

/** @throws UNSUPPORTED_OPERATION for what the version that is asked for can not have; `feature` says what */
function checkAmendment(
  header: Qcow2Header,
  { version = header.version as 2 | 3, lazyRefcounts, refcountBits, dataFile }: HeaderAmendment,
): void {
  const order = refcountBits === undefined ? header.refcountOrder : Math.log2(refcountBits);
  if (!Number.isInteger(order) || order < 0 || order > 6) {
    const context = { field: 'refcountBits', value: refcountBits, clause: 'HDR-018' };
    throw new StateError(
      'INVALID_ARGUMENT',
      'a refcount has 1 to 64 bits, and a power of two of them',
      context,
    );
  }
  if (
    dataFile !== undefined &&
    (header.incompatibleFeatures & incompatibleFeatures.externalDataFile) === 0n
  ) {
    const context = { field: 'dataFile', clause: 'DAT-001' };
    throw new StateError('INVALID_ARGUMENT', 'the image has no external data file', context);
  }
  if (version === 3) return;
  if (order !== 4) throw refusal('refcounts of other than 16 bits', 'refcountOrder', 'HDR-023');
  if (lazyRefcounts === true) throw refusal('lazy refcounts', 'compatibleFeatures', 'HDR-023');
  if (header.version === 2) return;
  if (header.draftJournal !== undefined || has(header, headerExtensionTypes.journal)) {
    throw refusal('a journal (disable it first)', 'extensions', 'JRN-BIND-019');
  }
  if (header.incompatibleFeatures !== 0n)
    throw refusal('incompatible features', 'incompatibleFeatures', 'HDR-023');
  if ((header.autoclearFeatures & autoclearFeatures.bitmaps) !== 0n) {
    throw refusal('bitmaps (remove them first)', 'autoclearFeatures', 'HDR-023');
  }
}

/**
 * What a snapshot has may be shared with others, and is not changed: where it has zero clusters, version 2 could not read it.
 * @throws UNSUPPORTED_OPERATION
 */
async function checkSnapshots(image: ZeroHolder): Promise<void> {
  for (const { id, diskSizeBytes = image.sizeBytes, vmStateLengthBytes } of image.snapshots) {
    if (diskSizeBytes !== image.sizeBytes)
      throw refusal('snapshots of another size', 'snapshotCount', 'HDR-023');
    // It stands behind the disk's end, where nobody looks for zeros.
    if (vmStateLengthBytes > 0)
      throw refusal('snapshots with the state of a machine', 'snapshotCount', 'HDR-023');
    const disk = await image.openSnapshot({ id });
    try {
      for (let at = 0; at < disk.sizeBytes; ) {
        for (const { kind, offset, lengthBytes } of await disk.extents(
          at,
          Math.min(askedBytes, disk.sizeBytes - at),
        )) {
          at = offset + lengthBytes;
          if (kind === 'zero') throw refusal('snapshots with zero clusters', 'snapshotCount', 'HDR-023');
        }
      }
    } finally {
      await disk.close();
    }
  }
}

function refusal(feature: string, field: string, clause: string): UnsupportedFeatureError {
  const message = `a version 2 image has no ${feature}`;
  return new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { feature, field, clause });
}

function has({ extensions }: Qcow2Header, type: number): boolean {
  return extensions.some((extension) => extension.type === type);
}

/**
 * Changes of the header, each to be durable before the next. A header of version 2 has no length of its own, so nothing can be staged in front of it: all that it has is to
 * stand in the first sector, and what is left out is left out before.
 */
function amendmentSteps(amendment: HeaderAmendment): ((header: Qcow2Header) => void)[] {
  const { version, lazyRefcounts, dataFile } = amendment;
  if (version === undefined && lazyRefcounts === undefined && dataFile === undefined) return [];
  const amend = (header: Qcow2Header): void => amendHeader(header, amendment);
  return amendment.version === 2 ? [dropNames, amend] : [amend];
}

/** The names of features, of which version 2 has none. */
function dropNames(header: Qcow2Header): void {
  header.extensions = header.extensions.filter(({ type }) => type !== headerExtensionTypes.featureNameTable);
}

function amendHeader(header: Qcow2Header, { version, lazyRefcounts, dataFile }: HeaderAmendment): void {
  if (dataFile !== undefined) amendDataFile(header, dataFile);
  if (version === 2 && header.version === 3) {
    header.version = 2;
    header.headerLengthBytes = 72;
    header.unknownHeaderBytes = new Uint8Array(0);
    header.compatibleFeatures = 0n;
    header.autoclearFeatures = 0n;
    header.extensions = header.extensions.filter(
      ({ type }) => type !== headerExtensionTypes.featureNameTable,
    );
  } else if (version === 3 && header.version === 2) {
    header.version = 3;
    header.headerLengthBytes = 112;
    header.unknownHeaderBytes = new Uint8Array(7);
  }
  if (lazyRefcounts === undefined || header.version === 2) return;
  const others = header.compatibleFeatures & ~compatibleFeatures.lazyRefcounts;
  header.compatibleFeatures = lazyRefcounts ? others | compatibleFeatures.lazyRefcounts : others;
}

function amendDataFile(header: Qcow2Header, { name, raw }: DataFileAmendment): void {
  if (raw === false) header.autoclearFeatures &= ~autoclearFeatures.rawExternalData;
  if (name === undefined) return;
  const others = header.extensions.filter(({ type }) => type !== headerExtensionTypes.externalDataFile);
  header.extensions = name === '' ? others : [encodeExternalDataFile(name), ...others];
}

/** An image, as far as zeros are to be found and replaced. */
interface ZeroHolder {
  readonly sizeBytes: number;
  readonly clusterBytes: number;
  readonly header: Qcow2Header;
  readonly snapshots: readonly Snapshot[];
  openSnapshot(choice: { readonly id: string }): Promise<BlockDevice>;
  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]>;
  showBacking(offset: number, lengthBytes: number): void | Promise<void>;
  write(offset: number, bytes: Uint8Array): void | Promise<void>;
}

const askedBytes = 2 ** 28;

/** No cluster says that it reads as zeros: it has nothing of its own, or data. */
async function expandZeros(image: ZeroHolder): Promise<void> {
  const { sizeBytes, clusterBytes, header } = image;
  const isBare = (header.backingFileName ?? '') === '';
  const zeros = new Uint8Array(clusterBytes);
  for (let at = 0; at < sizeBytes; ) {
    for (const { kind, offset, lengthBytes } of await image.extents(
      at,
      Math.min(askedBytes, sizeBytes - at),
    )) {
      at = offset + lengthBytes;
      if (kind !== 'zero') continue;
      if (isBare) await image.showBacking(offset, lengthBytes);
      else
        for (let from = offset; from < at; from += clusterBytes)
          await image.write(from, zeros.subarray(0, at - from));
    }
  }
}
