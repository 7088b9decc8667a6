/**
 * `rebase`: another backing file for an image, which goes on to show the same disk; or, with `-u`, another name and nothing else.
 *
 * Why a crash, a full disk or a signal loses nothing: what the two backing files differ in is written into the image, where it shows what it
 * showed anyway. When all of it is durable the name is changed, in steps that leave the old one or the new one.
 */
import { type BlockDevice, readPadded } from '@qcow2/block-device';
import type { Qcow2Image } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import { blockStatuses } from '../block-status.ts';
import { checkCacheMode, sourceCacheOption, targetCacheOption } from '../cache-modes.ts';
import type { Command, CommandContext } from '../command.ts';
import { type CopyReader, inUnits, planCopy } from '../copy/copy-plan.ts';
import { type CopyTarget, copyPieces, pieceBytesFor } from '../copy/disk-copy.ts';
import { losingNothing } from '../copy/losing-nothing.ts';
import {
  type DiskImage,
  imageOptions,
  type NamingRules,
  namingRules,
  openDiskImage,
  shareOption,
} from '../disk-image.ts';
import { CopyFigures, dryRun, dryRunOption, nothingWritten } from '../dry-run.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { besideImage } from '../file-name.ts';
import { sameFile } from '../image-creation.ts';
import { isFormatName } from '../image-format.ts';
import { nameImage } from '../named-image.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { withWritableImage } from '../writable-image.ts';
import { isZero } from '../zero-search.ts';

export const rebase: Command = {
  operands: 'FILE',
  options: [
    ...imageOptions,
    { name: 'backing', short: 'b', argument: 'FILE', help: "the new backing file; '' for none" },
    { name: 'backing-format', short: 'F', argument: 'FMT', help: 'format of the new backing file' },
    { name: 'unsafe', short: 'u', help: 'change the name and nothing else; no backing file is opened' },
    targetCacheOption,
    sourceCacheOption,
    progressOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    shareOption,
    dryRunOption,
  ],
  notes:
    'Nothing is lost whatever ends it: FILE shows the same disk at every moment.\n' +
    'Examples:\n' +
    '  qcow2 rebase -b other.qcow2 -F qcow2 overlay.qcow2\n' +
    "  qcow2 rebase -b '' overlay.qcow2                      # needs no backing file any more\n" +
    '  qcow2 rebase -u -b moved/base.qcow2 -F qcow2 overlay.qcow2',
  run: runRebase,
};

interface NewBacking {
  /** Undefined: none. */
  readonly name: string | undefined;
  readonly format: string | undefined;
}

async function runRebase(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const given = args.value('backing');
  if (given === undefined && !args.has('unsafe')) {
    throw usageFailure('Must specify backing file (-b) or use unsafe mode (-u)');
  }
  checkCacheMode(args.value('cache'), 'cache');
  checkCacheMode(args.value('source-cache'), 'source cache');
  const rules = namingRules(args, context);
  const format = args.value('backing-format');
  if (format !== undefined && !isFormatName(format))
    throw new CommandFailure(`Invalid format name: '${format}'`);
  const backing: NewBacking = { name: given === '' ? undefined : given, format };
  const isDry = args.has('dry-run');
  if (args.has('unsafe')) {
    await dryRun(isDry, () => rename(name, args.value('format'), backing, rules, isDry));
    if (isDry && !args.has('quiet')) context.out(dryText(name, backing, new CopyFigures(), undefined));
    return 0;
  }
  await dryRun(isDry, () => changeBacking(name, backing, rules, args, context));
  return 0;
}

async function changeBacking(
  name: string,
  backing: NewBacking,
  rules: NamingRules,
  args: ParsedArguments,
  context: CommandContext,
): Promise<void> {
  const isDry = args.has('dry-run');
  // Asked for early: a signal is then ours to answer, in words.
  const { stop } = context;
  const image = await openDiskImage(
    name,
    { format: args.value('format'), readOnly: false, dryRun: isDry },
    { ...rules, shared: false },
  );
  const progress = new Progress(isDry ? undefined : progressView(args, context), image.device.sizeBytes);
  try {
    const qcow2 = image.image;
    refuseRaw(qcow2, backing);
    refuseUnnamed(backing);
    const below = await openNew(image, backing, rules);
    try {
      const figures = isDry ? new CopyFigures() : undefined;
      await losingNothing(name, context, async () => {
        await bringIn(image, qcow2, below, { progress, stop, figures });
        await changingTo(backing, () => qcow2.changeBacking(named(backing)));
        await image.close();
      });
      progress.complete();
      if (figures !== undefined && !args.has('quiet')) {
        context.out(
          dryText(name, backing, figures, qcow2.info().extendedL2 ? undefined : qcow2.clusterBytes),
        );
      }
    } finally {
      await below?.close();
    }
  } finally {
    progress.end();
    await image.close();
  }
}

function dryText(
  name: string,
  backing: NewBacking,
  figures: CopyFigures,
  clusterBytes: number | undefined,
): string {
  const to = backing.name === undefined ? 'no backing file' : `'${backing.name}' (${backing.format})`;
  return `'${name}' would be rebased to ${to}:\n${figures.text(clusterBytes)}${nothingWritten}`;
}

/** `-u`: the caller knows that the two are the same, or that the old one is gone. */
async function rename(
  name: string,
  format: string | undefined,
  backing: NewBacking,
  { secrets, imageOpts, follow }: NamingRules,
  isDry: boolean,
): Promise<void> {
  await withWritableImage(
    nameImage(name, { format, byOptions: imageOpts, secrets }),
    { follow, metadataOnly: true, dryRun: isDry ? {} : undefined },
    async (image) => {
      refuseUnnamed(backing);
      await changingTo(backing, () => image.changeBacking(named(backing)));
    },
    () => refuseRaw(undefined, backing),
  );
}

function named({ name, format }: NewBacking) {
  return name === undefined ? undefined : { name, format };
}

function refuseRaw(image: Qcow2Image | undefined, backing: NewBacking): asserts image is Qcow2Image {
  if (image === undefined) throw changeFailure(backing, 'Operation not supported');
}

function refuseUnnamed(backing: NewBacking): void {
  if (backing.name !== undefined && backing.format === undefined) {
    throw changeFailure(backing, 'backing format must be specified');
  }
}

async function changingTo(backing: NewBacking, change: () => Promise<void>): Promise<void> {
  try {
    await change();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    if (error.code === 'NO_SPACE') {
      throw new CommandFailure(
        `Could not change the backing file to '${backing.name ?? ''}': No space left in the file header`,
        { cause: error },
      );
    }
    throw changeFailure(
      backing,
      error.code === 'INVALID_ARGUMENT' ? 'Invalid argument' : describeError(error),
      error,
    );
  }
}

function changeFailure({ name }: NewBacking, why: string, cause?: unknown): CommandFailure {
  return new CommandFailure(`Could not change the backing file to '${name ?? ''}': ${why}`, { cause });
}

/** The new backing file, seen from the image. @throws CommandFailure: "Could not open new backing file '…': …" */
async function openNew(
  { path, layers }: DiskImage,
  { name, format }: NewBacking,
  rules: NamingRules,
): Promise<DiskImage | undefined> {
  if (name === undefined) return undefined;
  const beside = besideImage(path, name);
  const opening = async (): Promise<DiskImage> => {
    if (sameFile(path, beside)) {
      throw new CommandFailure(
        `Failed to get shared "write" lock\nIs another process using the image [${beside}]?`,
      );
    }
    return await openDiskImage(beside, { format }, { ...rules, imageOpts: false });
  };
  try {
    const below = await opening();
    if (!below.layers.some((layer) => sameFile(layer.path, layers[0]!.path))) return below;
    await below.close();
    throw new CommandFailure(`'${name}' stands above '${path}' itself`);
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    const why = error.message.startsWith(`Could not open '${beside}': `)
      ? error.message.slice(`Could not open '${beside}': `.length)
      : error.message;
    throw new CommandFailure(`Could not open new backing file '${name}': ${why}`, { cause: error });
  }
}

const workers = 8;

interface BringingIn {
  readonly progress: Progress;
  readonly stop: AbortSignal;
  /** A dry run: what would be written is counted here. */
  readonly figures: CopyFigures | undefined;
}

type Writer = Pick<BlockDevice, 'write' | 'writeZeroes'>;

function countingWriter(figures: CopyFigures): Writer {
  return {
    write: (_offset, { length }) => figures.add({ kind: 'data', lengthBytes: length }),
    writeZeroes: (_offset, lengthBytes) => figures.add({ kind: 'zero', lengthBytes }),
  };
}

/** What takes its place in the image as a whole. */
function placeBytesOf(image: Qcow2Image): number {
  return image.info().extendedL2 ? image.clusterBytes / 32 : image.clusterBytes;
}

/** What the image shows from below, and would show otherwise through the new backing file, becomes its own; durable on return. */
async function bringIn(
  { device, layers }: DiskImage,
  image: Qcow2Image,
  below: DiskImage | undefined,
  { progress, stop, figures }: BringingIn,
): Promise<void> {
  const writer = figures === undefined ? image : countingWriter(figures);
  const target = differingTarget(image, writer, layers[1]?.device.sizeBytes ?? 0, below);
  const pieces = inUnits(
    planCopy([{ device, layers, startsAt: 0 }], {
      kindOf: ({ depth, present, zero }) => (depth === 0 && present ? 'leave' : zero ? 'zero' : 'data'),
    }),
    target.placeBytes,
    pieceBytesFor(target.unitBytes),
  );
  // What the image has of its own is left, so what is read is what stands below it.
  await copyPieces(pieces, device, target, {
    ...{ workers, inOrder: true, findZeros: false, stop },
    onDone: (lengthBytes) => progress.advance(lengthBytes),
  });
  await image.flush();
}

/** Writes those places only that the new backing file has differently. @param oldBytes length of what is below now */
function differingTarget(
  image: Qcow2Image,
  writer: Writer,
  oldBytes: number,
  below: DiskImage | undefined,
): CopyTarget {
  const placeBytes = placeBytesOf(image);
  const other = readerOf(below);
  const write = async (offset: number, bytes: Uint8Array): Promise<void> => {
    const theirs = new Uint8Array(bytes.length);
    await other.read(offset, theirs);
    for (let at = 0; at < bytes.length; at += placeBytes) {
      const mine = bytes.subarray(at, at + placeBytes);
      if (Buffer.compare(mine, theirs.subarray(at, at + placeBytes)) === 0) continue;
      // Behind the end of what is below now zeros show by themselves, and would not be written: there they are data.
      const isBelow = offset + at + mine.length <= oldBytes;
      if (isBelow && isZero(mine, 0, mine.length)) await writer.writeZeroes(offset + at, mine.length);
      else await writer.write(offset + at, mine);
    }
  };
  const zero = async (offset: number, lengthBytes: number): Promise<void> => {
    for await (const range of dataOf(below, offset, lengthBytes, placeBytes)) {
      await write(range.offset, new Uint8Array(range.lengthBytes));
    }
  };
  return { placeBytes, unitBytes: placeBytes, write, zero };
}

function readerOf(below: DiskImage | undefined): CopyReader {
  return {
    read: (offset, into) =>
      below === undefined ? void into.fill(0) : readPadded(below.device, offset, into),
  };
}

/** Where a disk may have other than zeros: places of the image, in pieces. */
async function* dataOf(
  below: DiskImage | undefined,
  offset: number,
  lengthBytes: number,
  placeBytes: number,
): AsyncGenerator<{ readonly offset: number; readonly lengthBytes: number }, void, undefined> {
  if (below === undefined) return;
  const end = offset + lengthBytes;
  const inBelow = Math.max(0, Math.min(lengthBytes, below.device.sizeBytes - offset));
  const most = pieceBytesFor(placeBytes);
  let reached = offset;
  for await (const status of blockStatuses(below.layers, offset, inBelow)) {
    if (status.zero) continue;
    const from = Math.max(reached, Math.floor(status.offset / placeBytes) * placeBytes);
    const until = Math.min(end, Math.ceil((status.offset + status.lengthBytes) / placeBytes) * placeBytes);
    for (let at = from; at < until; at += most) yield { offset: at, lengthBytes: Math.min(most, until - at) };
    reached = Math.max(reached, until);
  }
}
