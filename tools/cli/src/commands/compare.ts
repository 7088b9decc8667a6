/**
 * `compare`: whether two disks hold the same. Exit codes are qemu-img's: 0 the same, 1 not (or wrong use), 2 an image could not be
 * opened, 3 a status and 4 bytes could not be read.
 */
import { readPadded } from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import { type BlockStatus, blockStatuses } from '../block-status.ts';
import { checkCacheMode, sourceCacheOption } from '../cache-modes.ts';
import type { Command, CommandContext } from '../command.ts';
import { type DiskImage, imageOptions, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { firstDifference, firstNonZero } from '../zero-search.ts';

export const compare: Command = {
  operands: 'FILE1 FILE2',
  options: [
    ...imageOptions,
    { name: 'second-format', short: 'F', argument: 'FMT', help: 'format of the second image' },
    sourceCacheOption,
    progressOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    { name: 'strict', short: 's', help: 'sizes and allocation must agree as well' },
    shareOption,
  ],
  notes:
    'Exit code: 0 the same, 1 different, 2 an image can not be opened, 3 and 4 it can not be read.\n' +
    'Example:\n' +
    '  qcow2 compare disk.raw disk.qcow2',
  run: runCompare,
};

const exitCodes = { different: 1, unopened: 2, noStatus: 3, unread: 4 } as const;

async function runCompare(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [firstName, secondName, ...extra] = args.operands;
  if (firstName === undefined || secondName === undefined || extra.length > 0) {
    throw usageFailure('Expecting two image file names');
  }
  checkCacheMode(args.value('source-cache'), 'source cache', exitCodes.unopened);
  const images: DiskImage[] = [];
  try {
    await failingWith(exitCodes.unopened, async () => {
      const rules = namingRules(args, context, ['format', 'second-format']);
      images.push(await openDiskImage(firstName, { format: args.value('format') }, rules));
      images.push(await openDiskImage(secondName, { format: args.value('second-format') }, rules));
    });
    return await compareImages(images[0]!, images[1]!, args, context);
  } finally {
    for (const image of images) await image.close();
  }
}

/** @throws what the action throws, ending the command with this code */
async function failingWith<T>(exitCode: number, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof CommandFailure && error.exitCode === exitCode) throw error;
    throw new CommandFailure(describeError(error), { exitCode, cause: error });
  }
}

async function compareImages(
  first: DiskImage,
  second: DiskImage,
  args: ParsedArguments,
  context: CommandContext,
): Promise<number> {
  const { out, programName, err } = context;
  const isStrict = args.has('strict');
  const say = (line: string): void => {
    if (!args.has('quiet')) out(`${line}\n`);
  };
  const sizes = [first.device.sizeBytes, second.device.sizeBytes] as const;
  const progress = new Progress(progressView(args, context), Math.max(...sizes));
  try {
    if (sizes[0] !== sizes[1]) {
      if (isStrict) {
        say('Strict mode: Image size mismatch!');
        return exitCodes.different;
      }
    }
    const difference = await firstFinding(first, second, { isStrict, progress, say });
    if (difference === undefined) {
      say('Images are identical.');
      return 0;
    }
    if ('error' in difference) {
      err(`${programName}: ${difference.error}\n`);
      return difference.exitCode;
    }
    say(difference.text);
    return exitCodes.different;
  } finally {
    progress.end();
  }
}

type Finding = { readonly text: string } | { readonly error: string; readonly exitCode: number };

/** Bytes of each image that are in memory at a time. */
const pieceBytes = 2 * 1024 * 1024;

interface Comparison {
  readonly isStrict: boolean;
  readonly progress: Progress;
  say(line: string): void;
}

/** What is wrong first, from the start on; undefined: nothing. */
async function firstFinding(
  first: DiskImage,
  second: DiskImage,
  { isStrict, progress, say }: Comparison,
): Promise<Finding | undefined> {
  const common = Math.min(first.device.sizeBytes, second.device.sizeBytes);
  const [longer, name] = first.device.sizeBytes > common ? [first, first.name] : [second, second.name];
  const buffers = [new Uint8Array(pieceBytes), new Uint8Array(pieceBytes)] as const;
  let at = 0;
  try {
    for await (const { offset, lengthBytes, one, other } of sideBySide(first, second, common)) {
      at = offset;
      if (isStrict && !sameStatus(one, other)) {
        return { text: `Strict mode: Offset ${offset} block status mismatch!` };
      }
      const found = await differenceIn({ first, second }, { one, other }, offset, lengthBytes, buffers);
      if (found !== undefined) return found;
      progress.advance(lengthBytes);
    }
    const rest = longer.device.sizeBytes - common;
    if (rest > 0) say('Warning: Image size mismatch!');
    for await (const status of blockStatuses(longer.layers, common, rest)) {
      at = status.offset;
      const { offset, lengthBytes } = status;
      const found = status.zero ? undefined : await nonZeroIn(longer, offset, lengthBytes, buffers[0]);
      if (found !== undefined) return found;
      progress.advance(lengthBytes);
    }
    return undefined;
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    const message = `Sector allocation test failed at offset ${at} of ${name}: ${describeError(error)}`;
    return { error: message, exitCode: exitCodes.noStatus };
  }
}

interface Pair {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly one: BlockStatus;
  readonly other: BlockStatus;
}

/** The status of both, in pieces that are one thing in each. */
async function* sideBySide(
  first: DiskImage,
  second: DiskImage,
  sizeBytes: number,
): AsyncGenerator<Pair, void, undefined> {
  const others = blockStatuses(second.layers, 0, sizeBytes);
  let other: BlockStatus | undefined;
  for await (const one of blockStatuses(first.layers, 0, sizeBytes)) {
    for (let at = one.offset; at < one.offset + one.lengthBytes; ) {
      if (other === undefined || at >= other.offset + other.lengthBytes) {
        const step = await others.next();
        if (step.done === true) return;
        other = step.value;
      }
      const end = Math.min(one.offset + one.lengthBytes, other.offset + other.lengthBytes);
      yield { offset: at, lengthBytes: end - at, one, other };
      at = end;
    }
  }
}

function sameStatus(one: BlockStatus, other: BlockStatus): boolean {
  return (
    one.data === other.data &&
    one.zero === other.zero &&
    one.present === other.present &&
    (one.hostOffset === undefined) === (other.hostOffset === undefined)
  );
}

async function differenceIn(
  { first, second }: { readonly first: DiskImage; readonly second: DiskImage },
  { one, other }: Pick<Pair, 'one' | 'other'>,
  offset: number,
  lengthBytes: number,
  buffers: readonly [Uint8Array, Uint8Array],
): Promise<Finding | undefined> {
  if (one.zero && other.zero) return undefined;
  if (one.zero) return await nonZeroIn(second, offset, lengthBytes, buffers[1]);
  if (other.zero) return await nonZeroIn(first, offset, lengthBytes, buffers[0]);
  for (let at = offset; at < offset + lengthBytes; at += pieceBytes) {
    const length = Math.min(pieceBytes, offset + lengthBytes - at);
    const [mine, theirs] = [buffers[0].subarray(0, length), buffers[1].subarray(0, length)];
    const failure = (await readInto(first, at, mine)) ?? (await readInto(second, at, theirs));
    if (failure !== undefined) return failure;
    const found = firstDifference(mine, theirs);
    if (found !== undefined) return mismatch(at + found);
  }
  return undefined;
}

async function nonZeroIn(
  image: DiskImage,
  offset: number,
  lengthBytes: number,
  buffer: Uint8Array,
): Promise<Finding | undefined> {
  for (let at = offset; at < offset + lengthBytes; at += pieceBytes) {
    const piece = buffer.subarray(0, Math.min(pieceBytes, offset + lengthBytes - at));
    const failure = await readInto(image, at, piece);
    if (failure !== undefined) return failure;
    const found = firstNonZero(piece);
    if (found !== undefined) return mismatch(at + found);
  }
  return undefined;
}

async function readInto(image: DiskImage, offset: number, into: Uint8Array): Promise<Finding | undefined> {
  try {
    await readPadded(image.device, offset, into);
    return undefined;
  } catch (error) {
    const error_ = `Error while reading offset ${offset} of ${image.name}: ${describeError(error)}`;
    return { error: error_, exitCode: exitCodes.unread };
  }
}

const sectorBytes = 512;

/** Told by the sector. */
function mismatch(offset: number): Finding {
  return { text: `Content mismatch at offset ${offset - (offset % sectorBytes)}!` };
}
