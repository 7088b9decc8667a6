/**
 * The head of a LUKS version 1 header, as far as `info` shows it: which ciphers, which key slots, never a
 * key. After the "LUKS On-Disk Format Specification Version 1.2.3", section 2.2; all integers big-endian.
 */
import { FormatError } from '@qcow2/spec';

export interface LuksSlotFacts {
  readonly active: boolean;
  /** PBKDF2 iterations; said of active slots only. */
  readonly iterations: number;
  readonly stripes: number;
  /** Bytes from the LUKS header's start. */
  readonly keyOffset: number;
}

export interface LuksFacts {
  readonly cipherAlgorithm: string;
  readonly cipherMode: string;
  readonly ivGenerator: string;
  readonly ivHash?: string | undefined;
  readonly hash: string;
  readonly uuid: string;
  readonly payloadOffset: number;
  readonly masterKeyIterations: number;
  readonly slots: readonly LuksSlotFacts[];
}

/** Bytes of the header's fixed part, the eight key slots included. */
export const luksHeaderBytes = 592;

const magic = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];
const activeSlot = 0x00ac71f3;
const sectorBytes = 512;
const slotsAt = 208;
const slotBytes = 48;
const slotCount = 8;

/**
 * @param hostOffset where `bytes` stood, for errors
 * @throws TRUNCATED, BAD_MAGIC, BAD_FIELD
 */
export function decodeLuksHeader(bytes: Uint8Array, hostOffset: number): LuksFacts {
  if (bytes.length < luksHeaderBytes) {
    throw new FormatError('TRUNCATED', 'the LUKS header ends early', {
      hostOffset,
      lengthBytes: bytes.length,
    });
  }
  if (magic.some((byte, at) => bytes[at] !== byte)) {
    throw new FormatError('BAD_MAGIC', 'no LUKS header where the image says there is one', {
      hostOffset,
      field: 'luks.magic',
    });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint16(6);
  if (version !== 1) {
    throw new FormatError('BAD_FIELD', 'a LUKS version that is not known', {
      hostOffset: hostOffset + 6,
      field: 'luks.version',
      value: version,
    });
  }
  const keyBits = view.getUint32(108) * 8;
  const mode = fixedText(bytes, 40, 32);
  const [cipherMode = '', ivPart = ''] = splitOnce(mode, '-');
  const [ivGenerator = '', ivHash] = splitOnce(ivPart, ':');
  return {
    // XTS uses a key of two halves; the cipher is named by the half.
    cipherAlgorithm: `${fixedText(bytes, 8, 32)}-${cipherMode === 'xts' ? keyBits / 2 : keyBits}`,
    cipherMode,
    ivGenerator,
    ivHash,
    hash: fixedText(bytes, 72, 32),
    uuid: fixedText(bytes, 168, 40),
    payloadOffset: view.getUint32(104) * sectorBytes,
    masterKeyIterations: view.getUint32(164),
    slots: Array.from({ length: slotCount }, (_, slot) => decodeSlot(view, slotsAt + slot * slotBytes)),
  };
}

function decodeSlot(view: DataView, at: number): LuksSlotFacts {
  return {
    active: view.getUint32(at) === activeSlot,
    iterations: view.getUint32(at + 4),
    keyOffset: view.getUint32(at + 40) * sectorBytes,
    stripes: view.getUint32(at + 44),
  };
}

/** Text in a field of fixed width: up to the first zero byte. */
function fixedText(bytes: Uint8Array, at: number, lengthBytes: number): string {
  const field = bytes.subarray(at, at + lengthBytes);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
