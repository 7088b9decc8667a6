/** Seeded randomness: a run is repeated by giving its seed again. Mulberry32. */
export interface Random {
  /** An integer from `min` to `max`, both included. */
  between(min: number, max: number): number;
  pick<T>(values: readonly T[]): T;
  bytes(lengthBytes: number): Uint8Array;
}

export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return {
    between: (min, max) => min + Math.floor((next() / 2 ** 32) * (max - min + 1)),
    pick: (values) => values[Math.floor((next() / 2 ** 32) * values.length)] as (typeof values)[number],
    bytes: (lengthBytes) => Uint8Array.from({ length: lengthBytes }, () => next() & 0xff),
  };
}

/** The seed of this run: QCOW2_SEED, or one that differs each time. Tests print it. */
export function runSeed(): number {
  const given = process.env.QCOW2_SEED;
  return given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given);
}
