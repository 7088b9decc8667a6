/**
 * The dimensions of the matrix: what an image can be like, value by value, and who made it. A combination has one value of
 * each; its id is these values in order, with the seed of its contents behind them, and brings it back.
 *
 * `full` is what the full product takes of the values. Thinned are
 *
 * - cluster sizes: the smallest, where every table takes many clusters; the default; the largest, where a table is one.
 *   What lies between differs in shifts only, which the pairs go through with every other value;
 * - refcount widths: the narrowest, the default, the widest. The others are read and written by the same code.
 *
 * Everything else is there with all of its values.
 */
import { StateError } from '@qcow2/spec';

export const dimensions = {
  /** `theirs`: QEMU makes and fills the image. `ours`: the library does. `journal`: the library, with a journal v1. */
  maker: ['theirs', 'ours', 'journal'],
  version: ['v2', 'v3'],
  cluster: ['512', '1k', '2k', '4k', '8k', '16k', '32k', '64k', '128k', '256k', '512k', '1m', '2m'],
  refcount: ['r1', 'r2', 'r4', 'r8', 'r16', 'r32', 'r64'],
  entries: ['standard', 'extended'],
  /** `plain`: no cluster is compressed. */
  compression: ['plain', 'zlib', 'zstd'],
  backing: ['alone', 'onraw', 'onqcow2'],
  /** Where guest data stands: in the image, in a data file, in a raw data file. */
  data: ['inside', 'datafile', 'rawfile'],
  encryption: ['clear', 'luks', 'aes'],
  snapshots: ['nosnap', 'snap'],
  bitmaps: ['nomap', 'bitmap'],
} as const;

export type Dimension = keyof typeof dimensions;
export type Combination = { readonly [D in Dimension]: (typeof dimensions)[D][number] };
/** Some of the values of each dimension, in the order of `dimensions`. */
export type Values = { readonly [D in Dimension]: readonly Combination[D][] };

export const dimensionNames = Object.keys(dimensions) as readonly Dimension[];

export const full: Values = {
  ...dimensions,
  cluster: ['512', '64k', '2m'],
  refcount: ['r1', 'r16', 'r64'],
};

const unitBytes: Readonly<Record<string, number>> = { k: 1024, m: 2 ** 20 };

export function clusterBytesOf({ cluster }: Pick<Combination, 'cluster'>): number {
  return Number.parseInt(cluster, 10) * (unitBytes[cluster.slice(-1)] ?? 1);
}

export function refcountBitsOf({ refcount }: Pick<Combination, 'refcount'>): number {
  return Number(refcount.slice(1));
}

/** Every combination of the values, in order: the last dimension changes fastest. */
export function* combinations(values: Values): Generator<Combination> {
  const places = dimensionNames.map(() => 0);
  for (;;) {
    yield Object.fromEntries(
      dimensionNames.map((name, index) => [name, values[name][places[index]!]]),
    ) as Combination;
    let turning = places.length - 1;
    while (turning >= 0 && places[turning]! + 1 === values[dimensionNames[turning]!].length) {
      places[turning--] = 0;
    }
    if (turning < 0) return;
    places[turning]!++;
  }
}

export function idOf(combination: Combination, seed: number): string {
  return `${dimensionNames.map((name) => combination[name]).join('.')}@${seed}`;
}

/** @throws INVALID_ARGUMENT for what is no id */
export function parseId(id: string): { readonly combination: Combination; readonly seed: number } {
  const [list = '', seed = ''] = id.split('@');
  const values = list.split('.');
  const isKnown = (name: Dimension, index: number) =>
    (dimensions[name] as readonly string[]).includes(values[index] ?? '');
  if (values.length !== dimensionNames.length || !dimensionNames.every(isKnown) || !/^\d{1,9}$/.test(seed)) {
    throw new StateError('INVALID_ARGUMENT', 'not the id of a combination', { field: '--only', value: id });
  }
  const named = dimensionNames.map((name, index) => [name, values[index]]);
  return { combination: Object.fromEntries(named) as Combination, seed: Number(seed) };
}
