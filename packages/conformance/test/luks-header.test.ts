/** LUKS headers that QEMU made: what is decoded is what qemu-img says of them, and encodes to the same bytes. */
import {
  decodeEncryptionHeaderPointer,
  decodeLuksHeader,
  encodeLuksHeader,
  findHeaderExtension,
  luksMaterialBytes,
} from '@qcow2/codec';
import { headerExtensionTypes, luksHeadBytes } from '@qcow2/spec';
import { expect, it } from 'vitest';
import { walkImage } from '../src/image-walk.ts';
import { loadVector, vectorNames } from '../src/vector.ts';

const names = vectorNames().filter((name) => name.startsWith('luks'));

it.each(names)(
  '[LUKS-HDR-001, LUKS-HDR-003, LUKS-HDR-004, LUKS-HDR-005, LUKS-HDR-011, LUKS-HDR-013, LUKS-HDR-014, LUKS-SLOT-004, LUKS-SLOT-005] %s',
  (name) => {
    const { bytes, manifest } = loadVector(name);
    const data = findHeaderExtension(
      walkImage(bytes).header.extensions,
      headerExtensionTypes.fullDiskEncryption,
    );
    const { headerOffset: hostOffset, headerLengthBytes: lengthBytes } = decodeEncryptionHeaderPointer(data!);
    const head = bytes.subarray(hostOffset, hostOffset + luksHeadBytes);
    const header = decodeLuksHeader(head, { hostOffset, lengthBytes });
    expect(encodeLuksHeader(header, { lengthBytes })).toEqual(new Uint8Array(head));
    const said: unknown = manifest.qemu.info['format-specific'].data.encrypt;
    expect(said).toMatchObject({
      'cipher-alg': `${header.cipherName}-${header.keyBytes * 8}`,
      'cipher-mode': header.cipherMode,
      'ivgen-alg': header.ivGenerator,
      'hash-alg': header.hashName,
      uuid: header.uuid,
      'payload-offset': header.payloadOffset,
      'master-key-iters': header.digestIterations,
      slots: header.slots.map(({ active, iterations, materialOffset }) => ({
        active,
        'key-offset': materialOffset,
        ...(active ? { iters: iterations, stripes: 4000 } : {}),
      })),
    });
    // What the last slot has is the end of the header.
    const last = header.slots.at(-1)!;
    expect(last.materialOffset + luksMaterialBytes(header.keyBytes)).toBeLessThanOrEqual(lengthBytes);
  },
);
