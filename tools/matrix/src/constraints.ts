/**
 * Which combinations there are not. Two tables, both held to what the programs do:
 *
 * - a constraint is what QEMU refuses, or what the format has no way to say. A test asks QEMU for each;
 * - a refusal of ours is what QEMU does and we do not: a gap. Each is expected with its code where the combination is run, so
 *   that a gap that is closed fails until its row is taken away.
 */
import type { ErrorCode } from '@qcow2/spec';
import { type Combination, clusterBytesOf } from './dimensions.ts';

export interface Constraint {
  readonly name: string;
  /** In words of QEMU's, where it is QEMU that refuses. */
  readonly reason: string;
  /** What of QEMU refuses: making the image, filling it, or nothing, where the combination has no meaning. */
  readonly refusedBy: 'create' | 'fill' | 'nobody';
  excludes(combination: Combination): boolean;
}

export const constraints: readonly Constraint[] = [
  {
    name: 'v2-refcounts',
    reason: 'different refcount widths than 16 bits require compatibility level 1.1',
    refusedBy: 'create',
    excludes: ({ version, refcount }) => version === 'v2' && refcount !== 'r16',
  },
  {
    name: 'v2-extended',
    reason: 'extended L2 entries are only supported with compatibility level 1.1',
    refusedBy: 'create',
    excludes: ({ version, entries }) => version === 'v2' && entries === 'extended',
  },
  {
    name: 'v2-zstd',
    reason: 'a non-zlib compression type is only supported with compatibility level 1.1',
    refusedBy: 'create',
    excludes: ({ version, compression }) => version === 'v2' && compression === 'zstd',
  },
  {
    name: 'v2-data-file',
    reason: 'external data files are only supported with compatibility level 1.1',
    refusedBy: 'create',
    excludes: ({ version, data }) => version === 'v2' && data !== 'inside',
  },
  {
    name: 'v2-bitmaps',
    reason: 'cannot store dirty bitmaps in qcow2 v2 files',
    refusedBy: 'fill',
    excludes: ({ version, bitmaps }) => version === 'v2' && bitmaps === 'bitmap',
  },
  {
    name: 'v2-journal',
    reason: 'a version 2 header has no feature bits to announce a journal with [JRN-BIND-019]',
    refusedBy: 'nobody',
    excludes: ({ version, maker }) => version === 'v2' && maker === 'journal',
  },
  {
    name: 'small-extended',
    reason: 'extended L2 entries are only supported with cluster sizes of at least 16384 bytes',
    refusedBy: 'create',
    excludes: (combination) => combination.entries === 'extended' && clusterBytesOf(combination) < 16384,
  },
  {
    name: 'raw-backing',
    reason: 'backing file and data-file-raw cannot be used at the same time',
    refusedBy: 'create',
    excludes: ({ data, backing }) => data === 'rawfile' && backing !== 'alone',
  },
  {
    name: 'compressed-data-file',
    reason: 'compressed clusters have no place of a guest cluster’s own: operation not supported',
    refusedBy: 'fill',
    excludes: ({ data, compression }) => data !== 'inside' && compression !== 'plain',
  },
  {
    name: 'data-file-snapshot',
    reason: 'clusters of a data file are not counted, so nothing can share them: operation not supported',
    refusedBy: 'fill',
    excludes: ({ data, snapshots }) => data !== 'inside' && snapshots === 'snap',
  },
  {
    name: 'refcount-1-snapshot',
    reason: 'a cluster that a snapshot shares has a refcount of 2: invalid argument',
    refusedBy: 'fill',
    excludes: ({ refcount, snapshots }) => refcount === 'r1' && snapshots === 'snap',
  },
  {
    name: 'shared-compressed-snapshot',
    reason:
      'compressed clusters share host clusters, and each counts once more for every snapshot: too many for few bits, invalid argument',
    refusedBy: 'fill',
    excludes: ({ refcount, compression, snapshots }) =>
      (refcount === 'r2' || refcount === 'r4') && compression !== 'plain' && snapshots === 'snap',
  },
];

export interface Refusal {
  readonly name: string;
  readonly reason: string;
  readonly code: ErrorCode;
  /** The step of ours that refuses: opening and reading what QEMU made, making an image, opening one for writing, writing. */
  readonly at: 'read' | 'create' | 'open' | 'write';
  applies(combination: Combination): boolean;
}

const isOurs = ({ maker }: Combination): boolean => maker !== 'theirs';

/** The first that applies is the one that shows. */
export const refusals: readonly Refusal[] = [
  {
    name: 'encrypted-raw-file',
    reason: 'a raw data file that is encrypted is not the disk: such an image is not made',
    code: 'INVALID_ARGUMENT',
    at: 'create',
    applies: (one) => isOurs(one) && one.data === 'rawfile' && one.encryption === 'luks',
  },
  {
    name: 'encrypted-raw-file-aes',
    reason: 'a raw data file that is encrypted is not the disk: such an image of QEMU’s is not written',
    code: 'UNSUPPORTED_FEATURE',
    at: 'open',
    applies: (one) => isOurs(one) && one.data === 'rawfile' && one.encryption === 'aes',
  },
  {
    name: 'encrypted-compressed',
    reason:
      'compressed data is not encrypted, so an encrypted image gets none; qemu-io writes it, qemu-img convert refuses',
    code: 'UNSUPPORTED_OPERATION',
    at: 'write',
    applies: (one) => isOurs(one) && one.encryption !== 'clear' && one.compression !== 'plain',
  },
];

/** Whether there is such an image. */
export function isAllowed(combination: Combination): boolean {
  return !constraints.some((constraint) => constraint.excludes(combination));
}

export function refusalOf(combination: Combination): Refusal | undefined {
  return refusals.find((refusal) => refusal.applies(combination));
}
