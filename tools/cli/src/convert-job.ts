/** What `convert` does, when its arguments are read: open, make, copy, bitmaps; and what is said when it does not come to its end. */
import type { BlockStatus } from './block-status.ts';
import type { CommandContext } from './command.ts';
import {
  copyTarget,
  type OpenedTarget,
  openTarget,
  planTarget,
  tellingIncomplete,
  type WantedTarget,
} from './convert-target.ts';
import { copyBitmaps, refuseBroken } from './copy/bitmap-copy.ts';
import { type CopySource, inUnits, joinedReader, type PieceKind, planCopy } from './copy/copy-plan.ts';
import { copyPieces, pieceBytesFor } from './copy/disk-copy.ts';
import { Pace } from './copy/pace.ts';
import { type DiskImage, type NamingRules, openDiskImage } from './disk-image.ts';
import { CommandFailure, describeError } from './failures.ts';
import { Progress, type ProgressView } from './progress.ts';
import { showingSnapshot, type WantedSnapshot } from './snapshot-choice.ts';

export interface ConvertJob {
  readonly names: readonly string[];
  /** Of the sources. */
  readonly format: string | undefined;
  readonly target: WantedTarget;
  readonly snapshot: WantedSnapshot | undefined;
  readonly rules: NamingRules;
  readonly workers: number;
  readonly inOrder: boolean;
  /** Zeros of this length take no space; 0: everything does. */
  readonly sparseBytes: number;
  readonly compressed: boolean;
  /** Let the system copy from file to file, where it can. */
  readonly offload: boolean;
  readonly salvage: boolean;
  readonly bytesPerSecond: number | undefined;
  readonly bitmaps: 'none' | 'all' | 'sound';
  /** The target is on its disk when it is done. */
  readonly durable: boolean;
  /** Not even the order in which its parts come to the disk matters: after a crash of the system it is made again. */
  readonly expendable: boolean;
  readonly progress: ProgressView | undefined;
  readonly quiet: boolean;
}

/** @throws CommandFailure */
export async function convertImages(job: ConvertJob, context: CommandContext): Promise<void> {
  // Asked for early: a signal is then ours to answer, in words.
  const { stop } = context;
  const opened: DiskImage[] = [];
  // Pieces are read in the thread pool while others are looked through and written on this one.
  const reading: NamingRules = { ...job.rules, access: { io: 'async' } };
  const writing: NamingRules = job.expendable ? { ...job.rules, access: { flush: 'none' } } : job.rules;
  try {
    for (const name of job.names) {
      opened.push(await openDiskImage(name, { format: job.format }, reading));
    }
    const sources =
      job.snapshot === undefined
        ? opened
        : [await showingSnapshot(opened[0]!, job.snapshot), ...opened.slice(1)];
    const sizeBytes = sources.reduce((sum, { device }) => sum + device.sizeBytes, 0);
    await checkBitmaps(job, sources);
    const plan = planTarget(job.target, {
      sizeBytes,
      compressed: job.compressed,
      withBitmaps: job.bitmaps !== 'none',
    });
    const progress = new Progress(job.progress, sizeBytes);
    try {
      const target = await openTarget(job.target, plan, sources, writing);
      try {
        if (target.image.device.sizeBytes < sizeBytes) {
          throw new CommandFailure('output file is smaller than input file');
        }
        await tellingIncomplete(job.target.name, context, () =>
          fill(job, sources, target, progress, stop, context),
        );
      } finally {
        await target.image.close();
      }
      progress.complete();
    } finally {
      progress.end();
    }
  } finally {
    for (const image of opened) await image.close();
  }
}

async function checkBitmaps({ bitmaps }: ConvertJob, sources: readonly DiskImage[]): Promise<void> {
  if (bitmaps === 'none') return;
  if (sources.length > 1) throw new CommandFailure('Copying bitmaps only possible with single source');
  const image = sources[0]?.image;
  if (image === undefined || image.header.version < 3)
    throw new CommandFailure('Source lacks bitmap support');
  if (bitmaps === 'all') await refuseBroken(image);
}

/** Write the target; closing it, which writes as well, is part of it. @throws what ended the copy: the target is incomplete */
async function fill(
  job: ConvertJob,
  sources: readonly DiskImage[],
  target: OpenedTarget,
  progress: Progress,
  stop: AbortSignal,
  context: CommandContext,
): Promise<void> {
  const { image } = target;
  await copyAll(job, placedSources(sources), target, progress, stop, context);
  const from = sources[0]?.image;
  if (job.bitmaps !== 'none' && from !== undefined && image.image !== undefined) {
    await copyBitmaps(from, image.image, context);
  }
  if (job.durable) await image.device.flush();
  await image.close();
}

function placedSources(sources: readonly DiskImage[]): CopySource[] {
  let startsAt = 0;
  return sources.map(({ device, layers }) => {
    const source = { device, layers, startsAt };
    startsAt += device.sizeBytes;
    return source;
  });
}

async function copyAll(
  job: ConvertJob,
  sources: readonly CopySource[],
  target: OpenedTarget,
  progress: Progress,
  stop: AbortSignal,
  { err, programName }: CommandContext,
): Promise<void> {
  const writing = copyTarget(target, job);
  const { backingBytes } = target;
  const takesSpace = job.sparseBytes === 0;
  const kindOf = ({ data, zero }: BlockStatus): PieceKind => {
    if (!data && !zero) return 'leave';
    return zero && !takesSpace ? 'zero' : 'data';
  };
  // With a backing file, what the top image of the source has not is there already.
  const choice = {
    kindOf,
    ...(backingBytes === undefined ? {} : { depthLimit: 1, leaveBelow: backingBytes }),
  };
  const pieces = inUnits(planCopy(sources, choice), writing.placeBytes, pieceBytesFor(writing.unitBytes));
  await copyPieces(pieces, joinedReader(sources), writing, {
    workers: job.workers,
    inOrder: job.inOrder,
    findZeros: !takesSpace,
    onUnreadable: job.salvage
      ? (offset, error) => {
          if (job.quiet) return;
          err(`${programName}: warning: error while reading offset ${offset}: ${describeError(error)}\n`);
        }
      : undefined,
    onDone: (lengthBytes) => progress.advance(lengthBytes),
    pace:
      job.bytesPerSecond === undefined || job.bytesPerSecond === 0 ? undefined : new Pace(job.bytesPerSecond),
    stop,
  });
}
