/**
 * Another backing file for an image, or none: its name and format in the header.
 *
 * Crash argument. The header is replaced in steps (`header-update.ts`), at rest, when everything that was written is durable: a crash leaves the old
 * name with the old format, or the new one with the new [BAK-004], and whatever of the guest's bytes was brought into the image before is there with
 * either [BAK-005].
 */
import { encodeBackingFormat, encodeName, type Qcow2Header } from '@qcow2/codec';
import { autoclearFeatures, headerExtensionTypes, qcow2Limits, StateError } from '@qcow2/spec';

export interface BackingName {
  /** Stored, and not followed. */
  readonly name: string;
  readonly format?: string | undefined;
}

/** @throws INVALID_ARGUMENT for a name that no image can have, or an image that can have none */
export function checkBacking(header: Qcow2Header, backing: BackingName | undefined): void {
  if (backing === undefined) return;
  const lengthBytes = encodeName(backing.name).length;
  if (lengthBytes === 0 || lengthBytes > qcow2Limits.maxBackingFileNameBytes) {
    const context = { field: 'backingFileName', lengthBytes };
    throw new StateError('INVALID_ARGUMENT', 'not the length of the name of a backing file', context);
  }
  if ((header.autoclearFeatures & autoclearFeatures.rawExternalData) === 0n) return;
  throw new StateError('INVALID_ARGUMENT', 'a raw data file and a backing file exclude each other', {
    field: 'backingFileName',
  });
}

/** The header names this backing file, or none. */
export function nameBacking(header: Qcow2Header, backing: BackingName | undefined): void {
  const others = header.extensions.filter(({ type }) => type !== headerExtensionTypes.backingFormat);
  const format = backing?.format === undefined ? [] : [encodeBackingFormat(backing.format)];
  header.extensions = [...format, ...others];
  header.backingFileOffset = 0;
  header.backingFileLengthBytes = 0;
  delete header.backingFileName;
  if (backing !== undefined) header.backingFileName = backing.name;
}
