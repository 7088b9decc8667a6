/**
 * `commit`: what an image has goes into the image below it, or one further down (`-b`), and the image is emptied.
 *
 * Why a crash, a full disk or a signal loses nothing: until all is in the image below, and durable there, the image on top keeps all that it
 * has, and shows it whatever is below. Only then is it emptied, cluster by cluster, each of which shows the same from below.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { Qcow2Image } from '@qcow2/driver';
import { StateError } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import { blockStatuses } from '../block-status.ts';
import { checkCacheMode, targetCacheOption } from '../cache-modes.ts';
import type { Command, CommandContext } from '../command.ts';
import { type CopyPiece, inUnits, planCopy } from '../copy/copy-plan.ts';
import { type CopyTarget, copyPieces, pieceBytesFor } from '../copy/disk-copy.ts';
import { losingNothing } from '../copy/losing-nothing.ts';
import { Pace } from '../copy/pace.ts';
import { type DiskImage, imageOptions, namingRules, openDiskImage } from '../disk-image.ts';
import { CopyFigures, dryRun, dryRunOption, nothingWritten } from '../dry-run.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { besideImage } from '../file-name.ts';
import { sameFile } from '../image-creation.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { sizeArgument } from '../size-option.ts';

export const commit: Command = {
  operands: 'FILE',
  options: [
    ...imageOptions,
    targetCacheOption,
    {
      name: 'base',
      short: 'b',
      argument: 'FILE',
      help: 'the image of the chain to go into; FILE keeps what it has',
    },
    { name: 'keep', short: 'd', help: 'FILE keeps what it has' },
    { name: 'rate', short: 'r', argument: 'BYTES', help: 'read no more than this a second' },
    progressOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    dryRunOption,
  ],
  notes:
    'Nothing is lost whatever ends it: FILE keeps all that it has until it is durable below.\nExample:\n  qcow2 commit overlay.qcow2',
  run: runCommit,
};

async function runCommit(args: ParsedArguments, context: CommandContext): Promise<number> {
  const { stop, out } = context;
  checkCacheMode(args.value('cache'), 'cache');
  const rate = args.value('rate');
  const bytesPerSecond = rate === undefined ? 0 : sizeArgument(rate, 'rate limit', context);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const rules = namingRules(args, context);
  const format = args.value('format');
  const base = args.value('base');
  const depth = await depthOf(name, base, () => openDiskImage(name, { format }, rules));
  const isQuiet = args.has('quiet');
  const empties = base === undefined && !args.has('keep');
  if (args.has('dry-run')) {
    const opening = { format, readOnly: false, writableDepth: depth, dryRun: true };
    const text = await dryRun(true, async () =>
      foretell(await openDiskImage(name, opening, rules), depth, empties, stop),
    );
    if (!isQuiet) out(text);
    return 0;
  }
  const image = await openDiskImage(name, { format, readOnly: false, writableDepth: depth }, rules);
  const progress = new Progress(progressView(args, context), image.device.sizeBytes);
  try {
    await losingNothing(name, context, async () => {
      const pace = bytesPerSecond === 0 ? undefined : new Pace(bytesPerSecond);
      await copyDown(image, depth, { progress, pace, stop });
      if (empties) await empty(image);
      await image.close();
    });
    progress.complete();
  } finally {
    if (args.has('progress') && !isQuiet) progress.end();
    await image.close();
  }
  if (!isQuiet) out('Image committed.\n');
  return 0;
}

/** Which image of the chain it goes into. */
async function depthOf(
  name: string,
  base: string | undefined,
  open: () => Promise<DiskImage>,
): Promise<number> {
  const image = await open();
  try {
    if (image.layers.length < 2) throw new CommandFailure('Image does not have a backing file');
    if (base === undefined) return 1;
    const wanted = [base, besideImage(image.path, base)];
    const depth = image.layers.findIndex(
      ({ path }, at) => at > 0 && wanted.some((other) => path === other || sameFile(path, other)),
    );
    if (depth > 0) return depth;
    throw new CommandFailure(`Did not find '${base}' in the backing chain of '${name}'`);
  } finally {
    await image.close();
  }
}

interface CopyManner {
  readonly progress: Progress;
  readonly pace: Pace | undefined;
  readonly stop: AbortSignal;
}

const workers = 8;

/** What goes down, in pieces that the base takes as wholes. */
function piecesDown(
  { device, layers }: Pick<DiskImage, 'device' | 'layers'>,
  depth: number,
  { placeBytes, unitBytes }: CopyTarget,
): AsyncGenerator<CopyPiece, void, undefined> {
  const plan = planCopy([{ device, layers, startsAt: 0 }], {
    kindOf: ({ data, zero }) => (data ? 'data' : zero ? 'zero' : 'leave'),
    depthLimit: depth,
  });
  return inUnits(plan, placeBytes, pieceBytesFor(unitBytes));
}

/** What a commit would do, done to images that are kept in memory; the pieces are counted and not copied. Closes the image. */
async function foretell(
  image: DiskImage,
  depth: number,
  empties: boolean,
  stop: AbortSignal,
): Promise<string> {
  try {
    const { device: base, path } = image.layers[depth]!;
    const baseBytes = base.sizeBytes;
    const { sizeBytes } = image.device;
    if (baseBytes < sizeBytes) await grow(base, sizeBytes);
    const figures = new CopyFigures();
    for await (const piece of piecesDown(image, depth, baseTarget(base))) {
      if (stop.aborted) throw new StateError('ABORTED', 'told to stop');
      figures.add(piece);
    }
    const ownBytes = empties ? await ownBytesOf(image) : 0;
    if (empties) await empty(image);
    const clusterBytes = base instanceof Qcow2Image ? base.clusterBytes : undefined;
    return (
      `'${image.name}' would be committed into '${path}':\n${figures.text(clusterBytes)}` +
      (baseBytes < sizeBytes ? `    '${path}' would grow: ${baseBytes} bytes, then ${sizeBytes}\n` : '') +
      (empties
        ? `    '${image.name}' would be emptied: ${ownBytes} bytes are its own\n`
        : `    '${image.name}' would keep what it has\n`) +
      nothingWritten
    );
  } finally {
    await image.close();
  }
}

/** Of the disk, what does not show from below, zeros among it. */
async function ownBytesOf({ device, layers }: DiskImage): Promise<number> {
  let bytes = 0;
  for await (const { present, lengthBytes } of blockStatuses(layers, 0, device.sizeBytes, 1)) {
    if (present) bytes += lengthBytes;
  }
  return bytes;
}

/** All that the images above the base have goes into it; durable on return. */
async function copyDown(
  { device, layers }: DiskImage,
  depth: number,
  { progress, pace, stop }: CopyManner,
): Promise<void> {
  const base = layers[depth]!.device;
  if (base.sizeBytes < device.sizeBytes) await grow(base, device.sizeBytes);
  const target = baseTarget(base);
  await copyPieces(piecesDown({ device, layers }, depth, target), device, target, {
    ...{ workers, inOrder: true, findZeros: false, pace, stop },
    onDone: (lengthBytes) => progress.advance(lengthBytes),
  });
  await base.flush();
}

async function grow(base: BlockDevice, sizeBytes: number): Promise<void> {
  if (base instanceof Qcow2Image) await base.grow(sizeBytes);
  else await base.resize(sizeBytes);
}

const sectorBytes = 512;

function baseTarget(base: BlockDevice): CopyTarget {
  const placeBytes = base instanceof Qcow2Image ? base.clusterBytes : sectorBytes;
  return {
    placeBytes,
    unitBytes: placeBytes,
    write: (offset, bytes) => base.write(offset, bytes),
    zero: (offset, lengthBytes) => base.writeZeroes(offset, lengthBytes, { mayUnmap: true }),
  };
}

/** In pieces: what a journal holds is written back between them. */
async function empty({ image }: DiskImage): Promise<void> {
  if (image === undefined) return;
  const mostBytes = 1024 * image.clusterBytes;
  for (let at = 0; at < image.sizeBytes; at += mostBytes) {
    await image.showBacking(at, Math.min(mostBytes, image.sizeBytes - at));
  }
  await image.flush();
}
