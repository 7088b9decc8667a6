/**
 * The workloads of `bench benefit`, as data. Counts are those of a full run; a quick one does a tenth, and says
 * nothing about rates.
 */
import {
  databaseMix,
  flushedEvery,
  type Operation,
  type Place,
  type Random,
  scatteredWrites,
  sequentialWrites,
} from './operations.ts';

const kibibyte = 1024;
const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;

/**
 * What the image is before the first operation: empty; a new overlay over a file full of data; full of data itself; or the same,
 * with a snapshot that shares every cluster.
 */
export type ImageKind = 'empty' | 'overlay' | 'filled' | 'shared';

export interface BenefitCase {
  readonly name: string;
  readonly title: string;
  readonly image: ImageKind;
  /** What one round has for itself. */
  readonly placeBytes: number;
  /** @param share of the full count: 1, or less for a quick run */
  operations(place: Place, random: Random, share: number): Operation[];
  /** Wall-clock figures of writes that nobody waits for depend on where client and server run: then both on one processor. */
  readonly oneProcessor?: true;
}

/** Flushes of a round that make a 99th percentile of its own; with fewer, those of all rounds make one together. */
export const ratedFlushes = 400;
/** Rounds of cases with many writes to a flush are kept short by this. */
const fewFlushes = 128;

function randomCase(every: number, flushes: number): BenefitCase {
  return {
    name: `random-${every}`,
    title: `4 KiB random, allocating, flushed every ${every}`,
    image: 'empty',
    placeBytes: 4 * gibibyte,
    operations: (place, random, share) =>
      flushedEvery(scatteredWrites(place, scaled(flushes, share) * every, 4 * kibibyte, random), every),
  };
}

function sequentialCase(lengthBytes: number, every: number | 'never', writes: number): BenefitCase {
  const size = lengthBytes < kibibyte ? `${lengthBytes} B` : `${lengthBytes / kibibyte} KiB`;
  return {
    name: `sequential-${lengthBytes}-${every}`,
    title: `${size} sequential over a backing file, ${every === 'never' ? 'never flushed' : `flushed every ${every}`}`,
    image: 'overlay',
    placeBytes: roundUp(writes * lengthBytes, mebibyte),
    // A multiple of 64 KiB in the end, so that every cluster that was begun is full.
    operations: (place, _, share) =>
      flushedEvery(
        sequentialWrites(
          place,
          roundUp(scaled(writes, share) * lengthBytes, 64 * kibibyte) / lengthBytes,
          lengthBytes,
        ),
        every,
      ),
    ...(every === 'never' && { oneProcessor: true }),
  };
}

export const benefitCases: readonly BenefitCase[] = [
  randomCase(1, 1000),
  randomCase(8, ratedFlushes),
  randomCase(64, fewFlushes),
  {
    name: 'random-backing-1',
    title: '4 KiB random over a backing file, flushed every 1',
    image: 'overlay',
    placeBytes: 64 * mebibyte,
    operations: (place, random, share) =>
      flushedEvery(scatteredWrites(place, scaled(ratedFlushes, share), 4 * kibibyte, random), 1),
  },
  sequentialCase(4096, 1, 1024),
  sequentialCase(4096, 64, fewFlushes * 64),
  sequentialCase(4096, 'never', 16_384),
  sequentialCase(512, 1, 1024),
  sequentialCase(512, 64, fewFlushes * 64),
  sequentialCase(512, 'never', 32_768),
  {
    name: 'database',
    title: 'database: log of 4 KiB records flushed each, 100 random pages of 8 KiB for every 100 of them',
    image: 'empty',
    placeBytes: 256 * mebibyte,
    operations: (place, random, share) =>
      databaseMix(
        place,
        {
          checkpoints: scaled(5, share),
          commitsPerCheckpoint: 100,
          pagesPerCheckpoint: 100,
          logBytes: mebibyte,
        },
        random,
      ),
  },
  {
    name: 'shared-1',
    title: '4 KiB random into clusters shared with a snapshot, flushed every 1',
    image: 'shared',
    placeBytes: 32 * mebibyte,
    operations: (place, random, share) =>
      flushedEvery(scatteredWrites(place, scaled(ratedFlushes, share), 4 * kibibyte, random), 1),
  },
  {
    name: 'overwrite-1',
    title: '4 KiB random overwrites, flushed every 1',
    image: 'filled',
    placeBytes: 64 * mebibyte,
    operations: (place, random, share) =>
      flushedEvery(scatteredWrites(place, scaled(1000, share), 4 * kibibyte, random), 1),
  },
  {
    name: 'bulk-16',
    title: '64 KiB random, allocating, flushed every 16 (1 MiB between flushes)',
    image: 'empty',
    placeBytes: gibibyte,
    operations: (place, random, share) =>
      flushedEvery(scatteredWrites(place, scaled(40, share) * 16, 64 * kibibyte, random), 16),
  },
];

function scaled(count: number, share: number): number {
  return Math.max(1, Math.round(count * share));
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
