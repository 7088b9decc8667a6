/** Numbers that look random and are the same for the same seed, on every machine. */

/** Draws a number from 0 up to, not including, `below` (an integer up to 2^53). */
export type Draw = (below: number) => number;

/** A generator of its own for a seed (mulberry32). */
export function drawFrom(seed: number): Draw {
  let state = seed >>> 0;
  const next32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return (below) => {
    const fraction = (next32() * 2 ** 21 + (next32() >>> 11)) / 2 ** 53;
    return Math.floor(fraction * below);
  };
}
