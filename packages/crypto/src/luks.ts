/** LUKS as the driver wants it: what opens an image, what makes one, and who may open it from now on. */
import { randomFillSync, randomUUID } from 'node:crypto';
import { encodeLuksHeader, type LuksHeader, luksMaterialBytes } from '@qcow2/codec';
import type {
  EncryptionHeaderArea,
  GuestCipher,
  ImageEncryption,
  NewEncryption,
  PreparedEncryption,
} from '@qcow2/driver';
import { FormatError, luksConstants, StateError } from '@qcow2/spec';
import { defaultUnlockMs, deriveKey, measureIterations, minIterations } from './key-derivation.ts';
import {
  digestDerivation,
  isMasterKey,
  readLuksHeader,
  releaseSlots,
  sealMasterKey,
  slotCount,
  slotsOpenedBy,
  takeSlot,
  type UnlockLimits,
  unlockMasterKey,
} from './luks-keys.ts';
import { hashOf } from './names.ts';
import { type CipherChoice, sectorCipher } from './sector-cipher.ts';
import { wipe } from './wipe.ts';

/**
 * Opens a LUKS image by a passphrase.
 * @param passphrase the caller's: read at `unlock`, never kept
 */
export function luksPassphrase(passphrase: Uint8Array, limits: UnlockLimits = {}): ImageEncryption {
  return {
    format: 'luks',
    unlock: async (header) => {
      const area = needsHeader(header);
      const unlocked = await unlockMasterKey(area, passphrase, limits);
      try {
        return guestCipher(unlocked.header, unlocked.masterKey);
      } finally {
        wipe(unlocked.masterKey);
      }
    },
  };
}

/** Opens a LUKS image by its master key. @param masterKey the caller's: read at `unlock`, never kept */
export function luksMasterKey(masterKey: Uint8Array): ImageEncryption {
  return {
    format: 'luks',
    unlock: async (area) => {
      const header = await readLuksHeader(needsHeader(area));
      if (!(await isMasterKey(header, masterKey))) {
        throw new StateError('WRONG_SECRET', 'not the master key of the image', { clause: 'LUKS-KEY-003' });
      }
      return guestCipher(header, masterKey);
    },
  };
}

function needsHeader(area: EncryptionHeaderArea | undefined): EncryptionHeaderArea {
  if (area !== undefined) return area;
  throw new StateError('INVALID_ARGUMENT', 'LUKS needs the encryption header of the image', {
    clause: 'FDE-002',
  });
}

function guestCipher(choice: CipherChoice, masterKey: Uint8Array): GuestCipher {
  const cipher = sectorCipher(choice, masterKey);
  return {
    usesHostOffset: true,
    mayLog: choice.cipherMode !== 'ctr',
    encrypt: (bytes, firstSector) => cipher.encrypt(bytes, firstSector),
    decrypt: (bytes, firstSector) => cipher.decrypt(bytes, firstSector),
  };
}

export interface NewLuks {
  /** The caller's; read at `prepare`, never kept. */
  readonly passphrase: Uint8Array;
  /** `aes` with a key of so many bits, 128, 192 or 256, or `sm4`; default aes, 256. */
  readonly cipherName?: string;
  readonly cipherBits?: number;
  /** Default xts. */
  readonly cipherMode?: string;
  /** Default plain64. */
  readonly ivGenerator?: string;
  /** For essiv; default sha256. */
  readonly ivHash?: string;
  /** Of key derivation; default sha256. */
  readonly hashName?: string;
  /** What a guess is to cost on this machine, in milliseconds; default 2000. */
  readonly unlockMs?: number;
  /** In place of what `unlockMs` comes to. */
  readonly iterations?: number;
}

/** Makes an image a LUKS image, with one key slot. @throws at `prepare`: UNSUPPORTED_FEATURE, INVALID_ARGUMENT */
export function newLuks(options: NewLuks): NewEncryption {
  return { format: 'luks', prepare: () => prepare(options) };
}

/** Bytes that the header of a new image takes, key slots and all, before they are rounded up to clusters. */
export function luksHeaderBytes(options: Pick<NewLuks, 'cipherName' | 'cipherBits' | 'cipherMode'>): number {
  return placeMaterial(newKeyBytes(options)).headerBytes;
}

function newKeyBytes({ cipherName, cipherBits, cipherMode = 'xts' }: Partial<NewLuks>): number {
  const halfBytes = (cipherBits ?? (cipherName === 'sm4' ? 128 : 256)) / 8;
  return cipherMode === 'xts' ? halfBytes * 2 : halfBytes;
}

async function prepare(options: NewLuks): Promise<PreparedEncryption> {
  const { passphrase } = options;
  const cipherMode = options.cipherMode ?? 'xts';
  // Also where the mode uses none: QEMU wants one named.
  const ivGenerator = options.ivGenerator ?? 'plain64';
  const choice = {
    cipherName: options.cipherName ?? 'aes',
    cipherMode,
    ivGenerator,
    ivHash: ivGenerator === 'essiv' ? (options.ivHash ?? 'sha256') : undefined,
    hashName: options.hashName ?? 'sha256',
    keyBytes: newKeyBytes(options),
  };
  const hash = hashOf(choice.hashName);
  const masterKey = new Uint8Array(checkedKeyBytes(choice.keyBytes));
  tryCipher(choice, masterKey);
  randomFillSync(masterKey);
  const unlockMs = options.unlockMs ?? defaultUnlockMs;
  const iterations = checkedIterations(
    options.iterations ?? measureIterations(hash, choice.keyBytes, unlockMs),
  );
  const random = (): Uint8Array => randomFillSync(new Uint8Array(32));
  const salt = random();
  const digestSalt = random();
  // A guess at the digest is a guess at a key, which nobody makes: it need not be as slow.
  const digestIterations = Math.max(minIterations, Math.ceil(iterations / 8));
  const { materialOffset, headerBytes } = placeMaterial(choice.keyBytes);
  const digest = await deriveKey(masterKey, digestDerivation({ ...choice, digestSalt, digestIterations }));
  const header: LuksHeader = {
    ...choice,
    payloadOffset: headerBytes,
    digest: new Uint8Array(digest),
    digestSalt,
    digestIterations,
    uuid: randomUUID(),
    slots: Array.from({ length: slotCount }, (_, slot) => ({
      active: slot === 0,
      iterations: slot === 0 ? iterations : 0,
      salt: slot === 0 ? salt : new Uint8Array(32),
      materialOffset: materialOffset(slot),
    })),
  };
  const material = await sealMasterKey(choice, { salt, iterations }, masterKey, passphrase);
  return {
    headerBytes,
    pieces: [
      { at: 0, bytes: encodeLuksHeader(header, { lengthBytes: headerBytes }) },
      { at: materialOffset(0), bytes: material },
    ],
    encryption: onceWithKey(header, masterKey),
  };
}

/** Opens the image that is being made; the key is gone with that, or with this. */
function onceWithKey(header: LuksHeader, masterKey: Uint8Array): ImageEncryption {
  const cipher = guestCipher(header, masterKey);
  wipe(masterKey);
  return { format: 'luks', unlock: async () => cipher };
}

function placeMaterial(keyBytes: number) {
  const { materialAlignmentBytes: unit } = luksConstants;
  const stride = Math.ceil(luksMaterialBytes(keyBytes) / unit) * unit;
  return { materialOffset: (slot: number) => unit + slot * stride, headerBytes: unit + slotCount * stride };
}

function checkedKeyBytes(keyBytes: number): number {
  if (Number.isInteger(keyBytes) && keyBytes > 0 && keyBytes <= luksConstants.maxKeyBytes) return keyBytes;
  const context = { field: 'cipherBits', value: keyBytes * 8, clause: 'LUKS-LIM-001' };
  throw new StateError('INVALID_ARGUMENT', 'not a length of a key', context);
}

/**
 * What no cipher can be made of is refused before a second is spent on it: it is the caller's choice, and no damage.
 * @throws UNSUPPORTED_FEATURE, INVALID_ARGUMENT
 */
function tryCipher(choice: CipherChoice, key: Uint8Array): void {
  try {
    sectorCipher(choice, key);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new StateError('INVALID_ARGUMENT', 'no such cipher', { ...error.context }, error);
  }
}

function checkedIterations(iterations: number): number {
  const { maxIterations } = luksConstants;
  if (Number.isInteger(iterations) && iterations >= minIterations && iterations <= maxIterations)
    return iterations;
  const message = `from ${minIterations} to ${maxIterations} iterations`;
  const context = { field: 'iterations', value: iterations, clause: 'LUKS-LIM-002' };
  throw new StateError('INVALID_ARGUMENT', message, context);
}

export interface AddedKey {
  /** Opens the image already. */
  readonly passphrase: Uint8Array;
  readonly newPassphrase: Uint8Array;
  /** Default: the first slot that is free. */
  readonly slot?: number;
  readonly unlockMs?: number;
  readonly iterations?: number;
}

/**
 * Let another passphrase open the image. Durable on return. For `Qcow2Image.changeEncryptionHeader`.
 * @returns the slot
 * @throws WRONG_SECRET; INVALID_ARGUMENT where no slot is free, or not this one
 */
export async function addLuksKey(area: EncryptionHeaderArea, added: AddedKey): Promise<number> {
  const unlocked = await unlockMasterKey(area, added.passphrase);
  try {
    const { hashName, keyBytes } = unlocked.header;
    const unlockMs = added.unlockMs ?? defaultUnlockMs;
    const iterations = checkedIterations(
      added.iterations ?? measureIterations(hashOf(hashName), keyBytes, unlockMs),
    );
    return await takeSlot(area, unlocked, { passphrase: added.newPassphrase, iterations, slot: added.slot });
  } finally {
    wipe(unlocked.masterKey);
  }
}

/** Which key is to go: the one of a slot, or of every slot that a passphrase opens. */
export type RemovedKey = (
  | { readonly slot: number; readonly passphrase?: never }
  | { readonly passphrase: Uint8Array; readonly slot?: never }
) & {
  /** Also where nothing opens the image from then on: its data is gone. */
  readonly evenTheLast?: boolean;
};

/**
 * Erase key slots, durably. For `Qcow2Image.changeEncryptionHeader`.
 * @returns the slots
 * @throws WRONG_SECRET; INVALID_ARGUMENT for a slot that is not in use, and where none would be left
 */
export async function removeLuksKey(
  area: EncryptionHeaderArea,
  removed: RemovedKey,
): Promise<readonly number[]> {
  const { evenTheLast = false } = removed;
  const { header, slots } =
    removed.passphrase === undefined
      ? { header: await readLuksHeader(area), slots: [removed.slot] }
      : await slotsOpenedBy(area, removed.passphrase);
  await releaseSlots(area, header, slots, { evenTheLast });
  return slots;
}
