/**
 * Names in an image (files, snapshots, bitmaps, features) are bytes without a stated encoding, in
 * practice UTF-8. Here they are strings, and no byte is lost: one that is not valid UTF-8 becomes a lone
 * surrogate U+DC80..U+DCFF (as Python's `surrogateescape` does) and turns back into that byte.
 */
import { StateError } from '@qcow2/spec';

const utf8Decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const utf8Encoder = new TextEncoder();
const escapeBase = 0xdc00;

/** Bytes to string; `encodeName` gives the same bytes back, whatever they are. */
export function decodeName(bytes: Uint8Array): string {
  const whole = tryDecode(bytes);
  if (whole !== undefined) return whole;
  let text = '';
  let at = 0;
  while (at < bytes.length) {
    const length = sequenceLength(bytes[at] ?? 0);
    const character = length === 0 ? undefined : tryDecode(bytes.subarray(at, at + length));
    text += character ?? String.fromCharCode(escapeBase + (bytes[at] ?? 0));
    at += character === undefined ? 1 : length;
  }
  return text;
}

/** String to bytes. @throws StateError INVALID_ARGUMENT for a lone surrogate that stands for no byte */
export function encodeName(text: string): Uint8Array {
  if (text.isWellFormed()) return utf8Encoder.encode(text);
  const bytes: number[] = [];
  for (const character of text) {
    const codePoint = character.codePointAt(0) ?? 0;
    if (codePoint >= escapeBase + 0x80 && codePoint <= escapeBase + 0xff) {
      bytes.push(codePoint - escapeBase);
    } else if (character.isWellFormed()) {
      bytes.push(...utf8Encoder.encode(character));
    } else {
      throw new StateError('INVALID_ARGUMENT', 'a name with a lone surrogate can not be stored', {
        value: text,
      });
    }
  }
  return Uint8Array.from(bytes);
}

function tryDecode(bytes: Uint8Array): string | undefined {
  try {
    return utf8Decoder.decode(bytes);
  } catch {
    return undefined;
  }
}

/** How long a UTF-8 sequence is that begins with this byte; 0 where none does. */
function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}
