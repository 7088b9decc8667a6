/**
 * The anti-forensic splitter: a key becomes so many blocks that it is lost when any of them is, so that erasing one
 * sector of key material erases the key, whatever a drive keeps of old sectors. [LUKS-KEY-004 to LUKS-KEY-006]
 */
import { hash } from 'node:crypto';
import { luksConstants } from '@qcow2/spec';
import type { HashName } from './names.ts';
import { wipe } from './wipe.ts';

const { stripes } = luksConstants;

/**
 * @param random fills with random bytes
 * @returns key times stripes bytes, for the caller to overwrite
 */
export function splitKey(
  key: Uint8Array,
  hashName: HashName,
  random: (into: Uint8Array) => void,
): Uint8Array {
  const split = new Uint8Array(key.length * stripes);
  random(split.subarray(0, key.length * (stripes - 1)));
  const sum = diffusedSum(split, key.length, hashName);
  const last = split.subarray(key.length * (stripes - 1));
  for (let i = 0; i < key.length; i++) last[i] = sum[i]! ^ key[i]!;
  wipe(sum);
  return split;
}

/** @returns the key, for the caller to overwrite */
export function mergeKey(split: Uint8Array, keyBytes: number, hashName: HashName): Uint8Array {
  const key = diffusedSum(split, keyBytes, hashName);
  const last = split.subarray(keyBytes * (stripes - 1), keyBytes * stripes);
  for (let i = 0; i < keyBytes; i++) key[i]! ^= last[i]!;
  return key;
}

/** Of all stripes but the last. */
function diffusedSum(split: Uint8Array, keyBytes: number, hashName: HashName): Uint8Array {
  const sum = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < stripes - 1; stripe++) {
    const at = stripe * keyBytes;
    for (let i = 0; i < keyBytes; i++) sum[i]! ^= split[at + i]!;
    diffuse(sum, hashName);
  }
  return sum;
}

function diffuse(sum: Uint8Array, { name, bytes }: HashName): void {
  for (let at = 0, number = 0; at < sum.length; at += bytes, number++) {
    const piece = sum.subarray(at, Math.min(sum.length, at + bytes));
    const input = new Uint8Array(4 + piece.length);
    new DataView(input.buffer).setUint32(0, number);
    input.set(piece, 4);
    const digest = hash(name, input, 'buffer');
    piece.set(digest.subarray(0, piece.length));
    wipe(input, digest);
  }
}
