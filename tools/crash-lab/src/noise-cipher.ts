/**
 * An encryption for images in the lab: noise by the number of a sector, which stands for where it is in the file. It hides
 * nothing, and costs nothing; but bytes that went where the driver believed them to be what they are not do not come back.
 */
import type { GuestCipher, ImageEncryption, NewEncryption } from '@qcow2/driver';

const sectorBytes = 512;
/** One cluster of 1 KiB. */
const headerBytes = 1024;

const noise = (bytes: Uint8Array, firstSector: number): void => {
  for (let at = 0; at < bytes.length; at += sectorBytes) {
    const sector = firstSector + at / sectorBytes;
    let state = Math.imul(sector >>> 0, 0x9e3779b1) ^ Math.imul(Math.floor(sector / 2 ** 32) + 1, 0x85ebca6b);
    for (let i = at; i < at + sectorBytes; i++) {
      state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5;
      bytes[i]! ^= state >>> 24;
    }
  }
};

const cipher: GuestCipher = { usesHostOffset: true, mayLog: true, encrypt: noise, decrypt: noise };

export const noiseEncryption: ImageEncryption & NewEncryption = {
  format: 'luks',
  unlock: async () => cipher,
  prepare: async () => ({
    headerBytes,
    pieces: [{ at: 0, bytes: new Uint8Array(headerBytes).fill(0x4c) }],
    encryption: noiseEncryption,
  }),
};
