/**
 * An encryption that anybody can undo and nobody can confuse: every sector has its own noise, by its number. What the driver
 * encrypts twice, not at all, or by another number does not come back.
 */
import type { BlockDevice } from '@qcow2/block-device';
import {
  type CreateOptions,
  createImage,
  type GuestCipher,
  type ImageEncryption,
  type NewEncryption,
} from '../../src/index.ts';

const sectorBytes = 512;
export const toyHeaderBytes = 1536;

function addNoise(bytes: Uint8Array, firstSector: number): void {
  for (let at = 0; at < bytes.length; at++) {
    const sector = firstSector + Math.floor(at / sectorBytes);
    let mixed = Math.imul(sector >>> 0, 0x9e3779b1) ^ Math.imul(Math.floor(sector / 2 ** 32), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (at % sectorBytes) ^ (mixed >>> 15), 0xc2b2ae35);
    bytes[at]! ^= (mixed ^ (mixed >>> 13)) & 0xff;
  }
}

export interface ToyCipher extends GuestCipher {
  /** First sectors that were asked for, of both kinds, in order. */
  readonly encrypted: number[];
  readonly decrypted: number[];
}

export function toyCipher(usesHostOffset: boolean, mayLog = true): ToyCipher {
  const encrypted: number[] = [];
  const decrypted: number[] = [];
  const step = (list: number[]) => (bytes: Uint8Array, firstSector: number) => {
    if (bytes.length % sectorBytes !== 0) throw new RangeError('not whole sectors');
    list.push(firstSector);
    addNoise(bytes, firstSector);
  };
  return { usesHostOffset, mayLog, encrypted, decrypted, encrypt: step(encrypted), decrypt: step(decrypted) };
}

/** By host offset, as LUKS does; with a header that says nothing. */
export function toyLuks(cipher: GuestCipher = toyCipher(true)): ImageEncryption & NewEncryption {
  const encryption: ImageEncryption = { format: 'luks', unlock: async () => cipher };
  return {
    ...encryption,
    format: 'luks',
    prepare: async () => ({
      headerBytes: toyHeaderBytes,
      pieces: [{ at: 512, bytes: new Uint8Array(600).fill(0x4c) }],
      encryption,
    }),
  };
}

/** By guest offset, as the old encryption does. */
export function toyAes(cipher: GuestCipher = toyCipher(false)): ImageEncryption {
  return { format: 'aes', unlock: async () => cipher };
}

const cryptMethodAt = 32;

/** Images of the old kind are made by nobody: one that is empty becomes one. */
export async function createAesImage(device: BlockDevice, options: CreateOptions): Promise<void> {
  await createImage(device, options);
  await device.write(cryptMethodAt, Uint8Array.of(0, 0, 0, 1));
}

/** Both kinds: how an image is made, and what opens it. */
export const toyKinds = {
  luks: () => {
    const encryption = toyLuks();
    const create = (device: BlockDevice, options: CreateOptions) =>
      createImage(device, { ...options, encryption });
    return { encryption, create };
  },
  aes: () => ({ encryption: toyAes(), create: createAesImage }),
} as const;
