/** PBKDF2: from a passphrase to the key of a slot, slowly on purpose. In the thread pool; the event loop goes on. */
import { pbkdf2, pbkdf2Sync } from 'node:crypto';
import { promisify } from 'node:util';
import { luksConstants } from '@qcow2/spec';
import type { HashName } from './names.ts';
import { wipe } from './wipe.ts';

const derive = promisify(pbkdf2);

/** What a guess of a passphrase costs: see `measureIterations`. */
export const defaultUnlockMs = 2000;
/** Fewer make no key worth having; the least that QEMU takes too. */
export const minIterations = 1000;

export interface Derivation {
  readonly hash: HashName;
  readonly salt: Uint8Array;
  readonly iterations: number;
  readonly lengthBytes: number;
}

/** @returns the key, for the caller to overwrite */
export async function deriveKey(passphrase: Uint8Array, derivation: Derivation): Promise<Uint8Array> {
  const { hash, salt, iterations, lengthBytes } = derivation;
  return await derive(passphrase, salt, iterations, lengthBytes, hash.name);
}

/** How many iterations take about so many milliseconds here, within the format's bounds. */
export function measureIterations(hash: HashName, lengthBytes: number, milliseconds: number): number {
  const password = new Uint8Array(16);
  const salt = new Uint8Array(32);
  for (let iterations = 8192; ; iterations *= 2) {
    const begin = performance.now();
    wipe(pbkdf2Sync(password, salt, iterations, lengthBytes, hash.name));
    const took = performance.now() - begin;
    if (took < 20 && iterations < luksConstants.maxIterations) continue;
    const wanted = Math.round((iterations * milliseconds) / Math.max(took, 0.01));
    return Math.min(luksConstants.maxIterations, Math.max(minIterations, wanted));
  }
}
