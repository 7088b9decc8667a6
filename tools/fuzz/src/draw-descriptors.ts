/** Sound descriptors of every kind, drawn: what a writer of this journal, or of a later one, might log. */
import { descriptorSizeBytes, encodeDescriptor, type JournalDescriptor } from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset, Qcow2Error } from '@qcow2/spec';
import type { Random } from './random.ts';

const most = 2 ** 53 - 1;

export interface DrawnDescriptors {
  readonly descriptors: readonly JournalDescriptor[];
  /** The same, as bytes. */
  readonly encoded: readonly Uint8Array[];
}

/** @param payloadBytes what write-payload and guest-write may refer to */
export function drawDescriptors(
  random: Random,
  hints: readonly number[],
  payloadBytes: number,
): DrawnDescriptors {
  const descriptors: JournalDescriptor[] = [];
  const encoded: Uint8Array[] = [];
  for (let count = 1 + random.below(3); count > 0; count--) {
    const descriptor = draw(random, hints, payloadBytes);
    const bytes = encodedOrNone(descriptor);
    if (bytes === undefined) continue;
    descriptors.push(descriptor);
    encoded.push(bytes);
  }
  return { descriptors, encoded };
}

/** None where the draw made something that no writer could log. */
function encodedOrNone(descriptor: JournalDescriptor): Uint8Array | undefined {
  const bytes = new Uint8Array(descriptorSizeBytes(descriptor));
  try {
    encodeDescriptor(descriptor, new DataView(bytes.buffer), 0);
    return bytes;
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

function draw(random: Random, hints: readonly number[], payloadBytes: number): JournalDescriptor {
  const offset = drawOffset(random, hints);
  const lengthBytes = Math.min(drawLength(random), most - offset);
  const sector = Math.floor(offset / 512) * 512;
  const sectors = Math.max(512, Math.floor(Math.min(lengthBytes, most - sector) / 512) * 512);
  const held = Math.floor(payloadBytes / 512) * 512;
  switch (random.below(11)) {
    case 0:
      return { type: 'revoke', hostOffset: hostOffset(offset), lengthBytes: Math.max(1, lengthBytes) };
    case 1:
    case 2:
      return {
        type: 'guest-settled',
        guestOffset: guestOffset(Math.min(sector, most - (most % 512) - sectors - 512)),
        lengthBytes: sectors,
        throughSequence: random.below(64),
      };
    case 3:
    case 4:
      if (held >= 512) {
        return {
          type: 'guest-write',
          guestOffset: guestOffset(Math.min(sector, most - (most % 512) - held - 512)),
          lengthBytes: held,
          payloadOffset: 0,
        };
      }
      break;
    case 5:
      if (payloadBytes > 0) {
        return {
          type: 'write-payload',
          hostOffset: hostOffset(Math.min(offset, most - payloadBytes)),
          lengthBytes: 1 + random.below(payloadBytes),
          payloadOffset: 0,
        };
      }
      break;
    case 6:
      return {
        type: 'copy',
        targetHostOffset: hostOffset(offset),
        sourceHostOffset: hostOffset(drawOffset(random, hints)),
        lengthBytes: 1 + random.below(4096),
      };
    case 7:
      return {
        type: 'fill-from-backing',
        targetHostOffset: hostOffset(offset),
        guestOffset: guestOffset(sector),
        lengthBytes: 1 + random.below(4096),
      };
    case 8:
      return { type: 'no-op', lengthBytes: 8 + 8 * random.below(4) };
    case 9:
      return {
        type: 'unknown',
        number: random.pick([4, 5, 22, 0x7fff, 0x8000, 0xffff]),
        body: new Uint8Array(8 * random.below(4)),
      };
    default:
      break;
  }
  const bytes = new Uint8Array(1 + random.below(48));
  random.fill(bytes);
  return { type: 'inline-write', hostOffset: hostOffset(Math.min(offset, most - 64)), bytes };
}

function drawOffset(random: Random, hints: readonly number[]): number {
  const base = random.chance(8)
    ? random.pick([0, 72, 2 ** 31, 2 ** 40, 2 ** 52])
    : random.pick([0, ...hints]);
  return Math.max(0, base + random.pick([0, 0, 8, 512, -8, 512 * random.below(256)]));
}

function drawLength(random: Random): number {
  return random.pick([1, 8, 512, 1024, 4096, 65536, 2 ** 20, 2 ** 32, 2 ** 45]);
}
