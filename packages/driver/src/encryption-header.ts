/**
 * An image's encryption header, and opening an image with it. What stands in the header is the business of whoever has the
 * key; here it is a host range that nothing else may touch, and that is read and written past every log: nobody's
 * mapping depends on it, and its writer sees to its own order.
 */
import { type BlockDevice, checkRange, readPadded, type Task } from '@qcow2/block-device';
import { decodeEncryptionHeaderPointer, findHeaderExtension, type Qcow2Header } from '@qcow2/codec';
import { cryptMethods, FormatError, headerExtensionTypes, StateError } from '@qcow2/spec';
import type { EncryptionHeaderArea, GuestCipher, ImageEncryption } from './encryption.ts';
import type { HostArea } from './image-core.ts';

/** Where the image says that it is; undefined without LUKS. @throws FormatError [FDE-001 to FDE-004] */
export function encryptionHeaderRange(header: Qcow2Header): HostArea | undefined {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.fullDiskEncryption);
  if (data === undefined) return undefined;
  const pointer = decodeEncryptionHeaderPointer(data, { clusterBytes: 2 ** header.clusterBits });
  return { hostOffset: pointer.headerOffset, lengthBytes: pointer.headerLengthBytes };
}

/**
 * The cipher of an encrypted image.
 * @returns undefined where the image is not encrypted, or the caller has nothing to open it with: it is looked at only
 * @throws INVALID_ARGUMENT where image and secret are of different kinds; what `unlock` throws
 */
export function* unlockCipher(
  device: BlockDevice,
  header: Qcow2Header,
  encryption: ImageEncryption | undefined,
): Task<GuestCipher | undefined> {
  if (encryption === undefined) return undefined;
  const format = (['none', 'aes', 'luks'] as const)[header.cryptMethod];
  if (format !== encryption.format) {
    const message =
      header.cryptMethod === cryptMethods.none
        ? 'the image is not encrypted'
        : `the image is encrypted as ${format}, not as ${encryption.format}`;
    const context = { hostOffset: 32, field: 'cryptMethod', value: header.cryptMethod, clause: 'HDR-007' };
    throw new StateError('INVALID_ARGUMENT', message, context);
  }
  const range = encryptionHeaderRange(header);
  const area = range === undefined ? undefined : encryptionHeaderArea(device, range, true);
  return (yield encryption.unlock(area)) as GuestCipher;
}

export function needsSecret(): StateError {
  return new StateError('NO_SECRET', 'the image is encrypted; say what opens it', {
    hostOffset: 32,
    field: 'cryptMethod',
    clause: 'ENC-001',
  });
}

/** @throws BAD_FIELD where a log would change how the image is encrypted [JRN-DESC-031] */
export function refuseOtherEncryption(before: Qcow2Header, after: Qcow2Header): void {
  const [old, replayed] = [before, after].map(encryptionHeaderRange);
  const same = old?.hostOffset === replayed?.hostOffset && old?.lengthBytes === replayed?.lengthBytes;
  if (same && before.cryptMethod === after.cryptMethod) return;
  throw new FormatError('BAD_FIELD', 'the journal would change how the image is encrypted', {
    hostOffset: 32,
    field: 'cryptMethod',
    value: after.cryptMethod,
    clause: 'JRN-DESC-031',
  });
}

export function encryptionHeaderArea(
  device: BlockDevice,
  { hostOffset, lengthBytes }: HostArea,
  readOnly: boolean,
): EncryptionHeaderArea {
  return {
    hostOffset,
    lengthBytes,
    read: async (at, into) => {
      checkRange(at, into.length, lengthBytes);
      await readPadded(device, hostOffset + at, into, { event: 'encryption_header' });
    },
    write: async (at, bytes) => {
      if (readOnly) throw new StateError('READ_ONLY', 'the encryption header is only read here');
      checkRange(at, bytes.length, lengthBytes);
      await device.write(hostOffset + at, bytes, { event: 'encryption_header' });
    },
    flush: async () => {
      await device.flush({ event: 'flush_metadata' });
    },
  };
}
