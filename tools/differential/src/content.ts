/** What is written. */
import type { SeededRandom } from '@qcow2/seeded';

/** Noise, and behind it one byte over and over, so that what it compresses to has any length. */
export function drawContent(random: SeededRandom, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes).fill(random.below(256));
  random.fill(bytes.subarray(0, Math.floor(lengthBytes * random.pick([0, 0, 0.1, 0.3, 0.6, 1]))));
  return bytes;
}
