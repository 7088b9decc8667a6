/**
 * Master key and key slots of a LUKS header: out of it by a passphrase, into a slot for another one, out of a slot for good.
 *
 * Crash argument. A slot counts where its state says so, and the state is the last thing that is written of a slot that is taken
 * into use: key material first, with what of the slot stands beyond the header's first sector, a flush, then the rest with the
 * state, in one sector, and a flush [LUKS-KEY-007]. A slot that is given up loses its key material first [LUKS-KEY-008]: from
 * there on it opens nothing, whether it is marked or not. So a crash leaves every other slot as it was, and this one usable or
 * not, never half.
 *
 * Buffers with keys are overwritten before anything is returned or thrown; passphrases are the caller's.
 */
import { randomFillSync, timingSafeEqual } from 'node:crypto';
import {
  decodeLuksHeader,
  encodeLuksHeader,
  type LuksHeader,
  luksMaterialBytes,
  luksSlotOffset,
} from '@qcow2/codec';
import type { EncryptionHeaderArea } from '@qcow2/driver';
import { FormatError, luksConstants, luksHeadBytes, StateError } from '@qcow2/spec';
import { type Derivation, deriveKey } from './key-derivation.ts';
import { mergeKey, splitKey } from './key-splitter.ts';
import { hashOf } from './names.ts';
import { sectorBytes, sectorCipher } from './sector-cipher.ts';
import { wipe } from './wipe.ts';

const { keySlots, maxIterations } = luksConstants;
const digestBytes = 20;

/** Iterations that the caller is ready to pay for, below what the format bounds [LUKS-LIM-002]. */
export interface UnlockLimits {
  readonly maxIterations?: number | undefined;
}

export interface Unlocked {
  readonly header: LuksHeader;
  /** The slot that the passphrase opened. */
  readonly slot: number;
  /** For the caller to overwrite. */
  readonly masterKey: Uint8Array;
}

/** @throws FormatError, TRUNCATED where the header is shorter than its slots */
export async function readLuksHeader(area: EncryptionHeaderArea): Promise<LuksHeader> {
  const { hostOffset, lengthBytes } = area;
  const bytes = new Uint8Array(Math.min(luksHeadBytes, lengthBytes));
  await area.read(0, bytes);
  return decodeLuksHeader(bytes, { hostOffset, lengthBytes });
}

/**
 * The master key by a passphrase, which is tried on every slot in use.
 * @throws WRONG_SECRET; LIMIT_EXCEEDED for iterations beyond `limits`; FormatError, UNSUPPORTED_FEATURE
 */
export async function unlockMasterKey(
  area: EncryptionHeaderArea,
  passphrase: Uint8Array,
  limits: UnlockLimits = {},
): Promise<Unlocked> {
  const header = await readLuksHeader(area);
  refuseCostly(header, area, limits);
  for (const [slot, { active }] of header.slots.entries()) {
    if (!active) continue;
    const masterKey = await openSlot(area, header, slot, passphrase);
    if (masterKey !== undefined) return { header, slot, masterKey };
  }
  throw wrongSecret();
}

/** Every slot that a passphrase opens. @throws as `unlockMasterKey`, WRONG_SECRET where it opens none */
export async function slotsOpenedBy(
  area: EncryptionHeaderArea,
  passphrase: Uint8Array,
): Promise<{ readonly header: LuksHeader; readonly slots: readonly number[] }> {
  const header = await readLuksHeader(area);
  refuseCostly(header, area, {});
  const slots: number[] = [];
  for (const [slot, { active }] of header.slots.entries()) {
    const masterKey = active ? await openSlot(area, header, slot, passphrase) : undefined;
    if (masterKey !== undefined) slots.push(slot);
    wipe(masterKey);
  }
  if (slots.length === 0) throw wrongSecret();
  return { header, slots };
}

function wrongSecret(): StateError {
  return new StateError('WRONG_SECRET', 'the secret opens no key slot of the image', {
    clause: 'LUKS-KEY-003',
  });
}

function refuseCostly(header: LuksHeader, area: EncryptionHeaderArea, limits: UnlockLimits): void {
  const most = Math.min(limits.maxIterations ?? maxIterations, maxIterations);
  const refuse = (value: number, at: number, field: string): void => {
    if (value <= most) return;
    const context = { hostOffset: area.hostOffset + at, field, value, clause: 'LUKS-LIM-002' };
    throw new FormatError('LIMIT_EXCEEDED', `more than ${most} iterations of key derivation`, context);
  };
  refuse(header.digestIterations, 164, 'digestIterations');
  for (const [slot, { active, iterations }] of header.slots.entries()) {
    if (active) refuse(iterations, luksSlotOffset(slot) + 4, 'iterations');
  }
}

async function openSlot(
  area: EncryptionHeaderArea,
  header: LuksHeader,
  slot: number,
  passphrase: Uint8Array,
): Promise<Uint8Array | undefined> {
  const { keyBytes } = header;
  const hash = hashOf(header.hashName);
  const { materialOffset, salt, iterations } = header.slots[slot]!;
  const slotKey = await deriveKey(passphrase, { hash, salt, iterations, lengthBytes: keyBytes });
  const material = new Uint8Array(luksMaterialBytes(keyBytes));
  let masterKey: Uint8Array | undefined;
  try {
    const cipher = sectorCipher(header, slotKey);
    await area.read(materialOffset, material);
    cipher.decrypt(material, 0);
    masterKey = mergeKey(material, keyBytes, hash);
    if (await isMasterKey(header, masterKey)) return masterKey;
    wipe(masterKey);
    return undefined;
  } catch (error) {
    wipe(masterKey);
    throw error;
  } finally {
    wipe(slotKey, material);
  }
}

/** Whether a key has the header's digest; compared in constant time [LUKS-KEY-003]. */
export async function isMasterKey(header: LuksHeader, key: Uint8Array): Promise<boolean> {
  if (key.length !== header.keyBytes) return false;
  const digest = await deriveKey(key, digestDerivation(header));
  return timingSafeEqual(digest, header.digest);
}

export function digestDerivation(
  header: Pick<LuksHeader, 'hashName' | 'digestSalt' | 'digestIterations'>,
): Derivation {
  const { digestSalt: salt, digestIterations: iterations } = header;
  return { hash: hashOf(header.hashName), salt, iterations, lengthBytes: digestBytes };
}

/** Key material of a master key for a passphrase: cipher text. */
export async function sealMasterKey(
  header: Pick<LuksHeader, 'cipherName' | 'cipherMode' | 'ivGenerator' | 'ivHash' | 'hashName'>,
  slot: { readonly salt: Uint8Array; readonly iterations: number },
  masterKey: Uint8Array,
  passphrase: Uint8Array,
): Promise<Uint8Array> {
  const hash = hashOf(header.hashName);
  const slotKey = await deriveKey(passphrase, { hash, ...slot, lengthBytes: masterKey.length });
  try {
    const material = new Uint8Array(luksMaterialBytes(masterKey.length));
    const split = splitKey(masterKey, hash, (into) => randomFillSync(into));
    material.set(split);
    wipe(split);
    sectorCipher(header, slotKey).encrypt(material, 0);
    return material;
  } finally {
    wipe(slotKey);
  }
}

export interface NewSlot {
  readonly passphrase: Uint8Array;
  readonly iterations: number;
  /** Default: the first that is not in use. */
  readonly slot?: number | undefined;
}

/**
 * Take a slot into use for a passphrase. Durable on return.
 * @returns its number
 * @throws INVALID_ARGUMENT for a slot that is in use, or none left [LUKS-KEY-009]
 */
export async function takeSlot(
  area: EncryptionHeaderArea,
  unlocked: Unlocked,
  wanted: NewSlot,
): Promise<number> {
  const { header, masterKey } = unlocked;
  const number = wanted.slot ?? header.slots.findIndex(({ active }) => !active);
  const slot = header.slots[number];
  if (slot === undefined)
    refuseSlot(number, wanted.slot === undefined ? 'no key slot is left' : 'no such key slot');
  if (slot.active) refuseSlot(number, 'the key slot is in use');
  const salt = randomFillSync(new Uint8Array(32));
  const { iterations, passphrase } = wanted;
  const material = await sealMasterKey(header, { salt, iterations }, masterKey, passphrase);
  const slots = header.slots.with(number, { ...slot, active: true, iterations, salt });
  const { hostOffset, lengthBytes } = area;
  const bytes = encodeLuksHeader({ ...header, slots }, { hostOffset, lengthBytes });
  await area.write(slot.materialOffset, material);
  const begin = luksSlotOffset(number);
  const end = luksSlotOffset(number + 1);
  // One slot stands across a sector's end: its state must come last.
  const cut = begin < sectorBytes && end > sectorBytes ? sectorBytes : end;
  if (cut < end) await area.write(cut, bytes.subarray(cut, end));
  await area.flush();
  await area.write(begin, bytes.subarray(begin, cut));
  await area.flush();
  return number;
}

/**
 * Give slots up, one after the other: the key material of each is gone on return, durably. What a drive or a snapshot of the host
 * keeps of it is beyond reach.
 * @param options.evenTheLast where no other slot is in use nothing opens the image any more
 * @throws INVALID_ARGUMENT for a slot that is not in use, and where none would be left [LUKS-KEY-009]; nothing was changed
 */
export async function releaseSlots(
  area: EncryptionHeaderArea,
  header: LuksHeader,
  numbers: readonly number[],
  options: { readonly evenTheLast?: boolean } = {},
): Promise<void> {
  for (const number of numbers) {
    const slot = header.slots[number];
    if (slot === undefined) refuseSlot(number, 'no such key slot');
    if (!slot.active) refuseSlot(number, 'the key slot is not in use');
  }
  const left = header.slots.filter(({ active }, number) => active && !numbers.includes(number));
  if (left.length === 0 && options.evenTheLast !== true) {
    refuseSlot(numbers[0] ?? -1, 'the last key slot in use: without it nothing opens the image');
  }
  for (const number of numbers) {
    const { materialOffset } = header.slots[number]!;
    const noise = randomFillSync(new Uint8Array(luksMaterialBytes(header.keyBytes)));
    await area.write(materialOffset, noise);
    await area.flush();
    const unused = { active: false, iterations: 0, salt: new Uint8Array(32), materialOffset };
    const bytes = encodeLuksHeader({ ...header, slots: header.slots.with(number, unused) });
    const begin = luksSlotOffset(number);
    await area.write(begin, bytes.subarray(begin, luksSlotOffset(number + 1)));
    await area.flush();
  }
}

function refuseSlot(number: number, message: string): never {
  const value = number < 0 ? undefined : number;
  throw new StateError('INVALID_ARGUMENT', message, { field: 'slot', value, clause: 'LUKS-KEY-009' });
}

/** How many slots a header has. */
export const slotCount = keySlots;
