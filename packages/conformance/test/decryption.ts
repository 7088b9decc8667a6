/** Opens the encrypted vectors with Node's ciphers: just as much of LUKS 1 as the vectors use. */
import { createDecipheriv, createHash, pbkdf2Sync } from 'node:crypto';
import { decodeEncryptionHeaderPointer, findHeaderExtension } from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import type { ImageWalk } from '../src/image-walk.ts';

type Decrypt = (sector: Uint8Array, hostOffset: number, guestOffset: number) => void;

/**
 * The old encryption: the passphrase itself, filled up with zeros, is the key. It has 128 bits, whatever the public
 * description says: with 256 the vectors do not decrypt.
 */
export function aesDecryption(passphrase: string): Decrypt {
  const key = Buffer.alloc(16);
  key.write(passphrase);
  return (sector, _, guestOffset) => decryptSector(key, sector, guestOffset / 512);
}

export function luksDecryption(walk: ImageWalk, bytes: Uint8Array, passphrase: string): Decrypt {
  const extension = findHeaderExtension(walk.header.extensions, headerExtensionTypes.fullDiskEncryption);
  const { headerOffset } = decodeEncryptionHeaderPointer(extension ?? new Uint8Array());
  const key = luksKey(Buffer.from(bytes.subarray(headerOffset)), passphrase);
  return (sector, hostOffset) => decryptSector(key, sector, hostOffset / 512);
}

/** CBC with the sector number, 64 bits little-endian, as initialization vector ("plain64"). */
function decryptSector(key: Uint8Array, sector: Uint8Array, sectorNumber: number): void {
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(BigInt(sectorNumber));
  const cipher = createDecipheriv(`aes-${key.length * 8}-cbc`, key, vector).setAutoPadding(false);
  sector.set(cipher.update(sector));
}

/** The master key out of the first key slot (LUKS on-disk format 1.2, sections 2 and 4). */
function luksKey(header: Buffer, passphrase: string): Buffer {
  const hash = cString(header.subarray(72, 104));
  const keyBytes = header.readUInt32BE(108);
  const slot = header.subarray(208, 256);
  const stripes = slot.readUInt32BE(44);
  const slotKey = pbkdf2Sync(passphrase, slot.subarray(8, 40), slot.readUInt32BE(4), keyBytes, hash);
  const materialAt = slot.readUInt32BE(40) * 512;
  const material = Buffer.from(header.subarray(materialAt, materialAt + keyBytes * stripes));
  for (let at = 0; at < material.length; at += 512) {
    decryptSector(slotKey, material.subarray(at, at + 512), at / 512);
  }
  return mergeStripes(material, keyBytes, stripes, hash);
}

/** The anti-forensic splitter, backwards. */
function mergeStripes(material: Buffer, keyBytes: number, stripes: number, hash: string): Buffer {
  let merged: Buffer = Buffer.alloc(keyBytes);
  for (let stripe = 0; stripe < stripes; stripe++) {
    const mixed = Buffer.alloc(keyBytes);
    for (let i = 0; i < keyBytes; i++) mixed[i] = (merged[i] ?? 0) ^ (material[stripe * keyBytes + i] ?? 0);
    merged = stripe === stripes - 1 ? mixed : diffuse(mixed, hash);
  }
  return merged;
}

function diffuse(block: Buffer, hash: string): Buffer {
  const digestBytes = createHash(hash).digest().length;
  const parts: Buffer[] = [];
  for (let at = 0; at < block.length; at += digestBytes) {
    const number = Buffer.alloc(4);
    number.writeUInt32BE(parts.length);
    const part = block.subarray(at, at + digestBytes);
    parts.push(createHash(hash).update(number).update(part).digest().subarray(0, part.length));
  }
  return Buffer.concat(parts);
}

function cString(bytes: Buffer): string {
  return bytes.subarray(0, bytes.indexOf(0)).toString('latin1');
}
