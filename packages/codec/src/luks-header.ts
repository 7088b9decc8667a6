/**
 * The LUKS header, version 1: which cipher, which key slots, where their key material is. No key is computed here, and none
 * stands in it: material is cipher text.
 *
 * A header that decodes can be followed: each slot's material, used or not, lies behind the slots and within the encryption
 * header, and no two overlap. So nothing that is read or written by what it says touches anything else, and its
 * sizes and iteration counts are bounded.
 */
import {
  type Decoded,
  FormatError,
  luksConstants,
  luksHeadBytes,
  luksHeaderLayout,
  luksKeySlotLayout,
} from '@qcow2/spec';
import { compileLayout } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';

export interface LuksKeySlot {
  readonly active: boolean;
  /** Rounds of PBKDF2. */
  readonly iterations: number;
  /** 32 bytes. */
  readonly salt: Uint8Array;
  /** Bytes from the LUKS header's start; a multiple of 512. */
  readonly materialOffset: number;
}

export interface LuksHeader {
  /** The block cipher's name, such as `aes`; how long its key is `keyBytes` says. */
  readonly cipherName: string;
  /** `xts`, `cbc`, … */
  readonly cipherMode: string;
  /** `plain64`, `plain`, `essiv`; empty where the mode has none. */
  readonly ivGenerator: string;
  /** Behind the generator's colon. */
  readonly ivHash?: string | undefined;
  readonly hashName: string;
  readonly keyBytes: number;
  /** Bytes; not used within a qcow2 image. */
  readonly payloadOffset: number;
  /** 20 bytes of PBKDF2 of the master key. */
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestIterations: number;
  readonly uuid: string;
  /** Eight. */
  readonly slots: readonly LuksKeySlot[];
}

export interface LuksHeaderOptions {
  /** Host offset of the header's first byte, for errors. */
  readonly hostOffset?: number | undefined;
  /** Bytes of the encryption header, key material included; default: no bound. */
  readonly lengthBytes?: number | undefined;
}

const headCodec = compileLayout(luksHeaderLayout);
const slotCodec = compileLayout(luksKeySlotLayout);
const { sectorBytes, stripes, keySlots, keySlotActive, keySlotDisabled } = luksConstants;

/** Place of a key slot in the header. */
export function luksSlotOffset(slot: number): number {
  return luksHeaderLayout.sizeBytes + slot * luksKeySlotLayout.sizeBytes;
}

/** Bytes of one slot's key material. [LUKS-SLOT-006] */
export function luksMaterialBytes(keyBytes: number): number {
  return Math.ceil((keyBytes * stripes) / sectorBytes) * sectorBytes;
}

/**
 * Header and slots out of the first 592 bytes; byte strings are copied.
 * @throws FormatError BAD_MAGIC, BAD_FIELD, TRUNCATED, OVERLAP [LUKS-SLOT-007, LUKS-SLOT-008]
 */
export function decodeLuksHeader(bytes: Uint8Array, options: LuksHeaderOptions = {}): LuksHeader {
  const hostOffset = options.hostOffset ?? 0;
  const head = headCodec.decode(bytes, { hostOffset });
  const [cipherMode = '', iv = ''] = splitOnce(decodeText(head.cipherMode), '-');
  const [ivGenerator = '', ivHash] = splitOnce(iv, ':');
  const slots = Array.from({ length: keySlots }, (_, slot) => decodeSlot(bytes, slot, hostOffset));
  checkMaterial(slots, head.keyBytes, options);
  return {
    cipherName: decodeText(head.cipherName),
    cipherMode,
    ivGenerator,
    ivHash,
    hashName: decodeText(head.hashName),
    keyBytes: head.keyBytes,
    payloadOffset: head.payloadOffsetSectors * sectorBytes,
    digest: head.digest,
    digestSalt: head.digestSalt,
    digestIterations: head.digestIterations,
    uuid: decodeText(head.uuid),
    slots,
  };
}

/** The header as its 592 bytes. @throws FormatError for a value that decode would refuse */
export function encodeLuksHeader(header: LuksHeader, options: LuksHeaderOptions = {}): Uint8Array {
  const { cipherMode, ivGenerator, ivHash } = header;
  const iv = ivHash === undefined ? ivGenerator : `${ivGenerator}:${ivHash}`;
  const bytes = new Uint8Array(luksHeadBytes);
  const head: Decoded<typeof luksHeaderLayout> = {
    magic: 0x4c554b53,
    magicTail: 0xbabe,
    version: 1,
    cipherName: encodeText('cipherName', header.cipherName, 32),
    cipherMode: encodeText('cipherMode', iv === '' ? cipherMode : `${cipherMode}-${iv}`, 32),
    hashName: encodeText('hashName', header.hashName, 32),
    payloadOffsetSectors: header.payloadOffset / sectorBytes,
    keyBytes: header.keyBytes,
    digest: header.digest,
    digestSalt: header.digestSalt,
    digestIterations: header.digestIterations,
    uuid: encodeText('uuid', header.uuid, 40),
  };
  headCodec.encode(head, bytes);
  checkMaterial(header.slots, header.keyBytes, options);
  for (const [slot, { active, iterations, salt, materialOffset }] of header.slots.entries()) {
    const value = {
      state: active ? keySlotActive : keySlotDisabled,
      iterations,
      salt,
      materialOffsetSectors: materialOffset / sectorBytes,
      stripes,
    };
    slotCodec.encode(value, bytes, { at: luksSlotOffset(slot) });
  }
  return bytes;
}

function decodeSlot(bytes: Uint8Array, slot: number, hostOffset: number): LuksKeySlot {
  const at = luksSlotOffset(slot);
  const { state, iterations, salt, materialOffsetSectors } = slotCodec.decode(bytes, { at, hostOffset });
  const active = state === keySlotActive;
  if (active && iterations === 0) {
    const context = {
      hostOffset: hostOffset + at + 4,
      field: 'iterations',
      value: 0,
      clause: 'LUKS-SLOT-002',
    };
    throw new FormatError('BAD_FIELD', 'a key slot in use without iterations', context);
  }
  return { active, iterations, salt, materialOffset: materialOffsetSectors * sectorBytes };
}

function checkMaterial(slots: readonly LuksKeySlot[], keyBytes: number, options: LuksHeaderOptions): void {
  const lengthBytes = luksMaterialBytes(keyBytes);
  const limit = options.lengthBytes ?? Number.MAX_SAFE_INTEGER;
  for (const [slot, { materialOffset }] of slots.entries()) {
    const fail = (code: 'OVERLAP' | 'TRUNCATED', message: string, clause: string): never => {
      const hostOffset = (options.hostOffset ?? 0) + luksSlotOffset(slot) + 40;
      const value = materialOffset / sectorBytes;
      const context = { hostOffset, field: 'materialOffsetSectors', value, clause };
      throw new FormatError(code, message, context);
    };
    if (materialOffset < luksHeadBytes) fail('OVERLAP', 'key material over the key slots', 'LUKS-SLOT-007');
    if (materialOffset + lengthBytes > limit) {
      fail('TRUNCATED', 'key material beyond the end of the encryption header', 'LUKS-SLOT-007');
    }
    const isClash = (other: LuksKeySlot): boolean =>
      Math.abs(other.materialOffset - materialOffset) < lengthBytes;
    if (slots.slice(0, slot).some(isClash)) fail('OVERLAP', 'two slots share key material', 'LUKS-SLOT-008');
  }
}

/** Up to the first zero byte [LUKS-HDR-012]. */
function decodeText(field: Uint8Array): string {
  const end = field.indexOf(0);
  return decodeName(end < 0 ? field : field.subarray(0, end));
}

function encodeText(field: string, text: string, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  const encoded = encodeName(text);
  if (encoded.length > lengthBytes) {
    const context = { field, value: text, clause: 'LUKS-HDR-012' };
    throw new FormatError('BAD_FIELD', `longer than ${lengthBytes} bytes`, context);
  }
  bytes.set(encoded);
  return bytes;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
