/**
 * `recover`: what a damaged image still has goes into a new one, with a word on every range of the disk.
 *
 * Nothing is written to the source: its file is opened for reading, and what the driver changes of its tables stands in memory.
 */
import { existsSync } from 'node:fs';
import { type BlockDevice, readPadded } from '@qcow2/block-device';
import { decodeBackingFormat, findHeaderExtension, type Qcow2Header } from '@qcow2/codec';
import { type RecoveredDisk, recoverDisk } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { FormatError, headerExtensionTypes, Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  copyTarget,
  type OpenedTarget,
  openTarget,
  planTarget,
  targetHelp,
  tellingIncomplete,
  type WantedTarget,
} from '../convert-target.ts';
import { type CopyPiece, inUnits } from '../copy/copy-plan.ts';
import { copyPieces, pieceBytesFor } from '../copy/disk-copy.ts';
import { type NamingRules, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { localPath } from '../file-name.ts';
import { followName, followOptions } from '../follow.ts';
import { lockOpened } from '../image-lock.ts';
import { jsonText } from '../json-text.ts';
import { joinLists } from '../option-list.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { RecoveryReport } from '../recovery-report.ts';
import { sizeArgument } from '../size-option.ts';

export const recover: Command = {
  operands: 'SOURCE TARGET',
  options: [
    { name: 'target-format', short: 'O', argument: 'FMT', help: 'of TARGET: qcow2 (default), raw' },
    { name: 'options', short: 'o', argument: 'LIST', help: 'options of TARGET, as create has them' },
    { name: 'guess', help: 'take what tables say also where other evidence contradicts it' },
    { name: 'no-backing', help: 'the backing file is not there: what it showed is lost' },
    { name: 'cluster-size', argument: 'SIZE', help: 'of SOURCE, where its header does not say' },
    { name: 'size', argument: 'SIZE', help: 'of the disk, where the header does not say' },
    outputOption,
    progressOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    shareOption,
    ...followOptions,
  ],
  notes:
    'SOURCE is only read. TARGET is made, and must not be there. Each range of the disk is said to be\n' +
    'found, found by a guess and by which, or lost: then TARGET has zeros there. What no evidence speaks against\n' +
    'and could be wrong nevertheless: flags that say "reads as zeros", and the bytes of the guest themselves.\n' +
    'Exit codes: 0 all found, 1 the recovery could not be done, 2 something is lost, 3 nothing is lost and\n' +
    'something was guessed.\nExample:\n  qcow2 recover damaged.qcow2 rescued.qcow2',
  run: runRecover,
};

async function runRecover(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const format = args.value('target-format') ?? 'qcow2';
  const [source, name, ...extra] = args.operands;
  const list = args.has('options') ? joinLists(args.values('options')) : '';
  if (list === 'help' || list === '?') {
    context.out(targetHelp(format, name));
    return 0;
  }
  if (source === undefined || name === undefined || extra.length > 0) {
    throw usageFailure('Expecting the names of a damaged image and of a new one');
  }
  if (existsSync(localPath(name)))
    throw new CommandFailure(`'${name}' is there already: a recovery makes a new image`);
  const wanted: WantedTarget = {
    ...{ name, format, optionList: list, exists: false, imageOpts: false, isZero: false },
    ...{ backing: undefined, backingFormat: undefined },
  };
  const rules = namingRules(args, context);
  // Asked for early: a signal is then ours to answer, in words.
  const { stop } = context;
  const disk = await openDamaged(source, args, rules, context);
  const report = new RecoveryReport();
  try {
    await copyDisk(disk, wanted, report, rules, args, context, stop);
  } finally {
    await disk.image.close();
  }
  const facts = { source, target: name, guesses: disk.guesses, without: disk.without, orphans: disk.orphans };
  if (output === 'json') context.out(`${jsonText(report.json(facts))}\n`);
  else if (!args.has('quiet')) context.out(report.text(facts));
  return report.exitCode;
}

/** @throws CommandFailure: "Could not recover '…': …" */
async function openDamaged(
  name: string,
  args: ParsedArguments,
  rules: NamingRules,
  context: CommandContext,
): Promise<RecoveredDisk> {
  const path = localPath(name);
  const clusterSize = args.value('cluster-size');
  const clusterBytes =
    clusterSize === undefined ? undefined : sizeArgument(clusterSize, 'cluster size', context);
  const isPower =
    clusterBytes === undefined || [...Array(13).keys()].some((bits) => 512 << bits === clusterBytes);
  if (!isPower) throw new CommandFailure('Cluster size must be a power of two between 512 and 2048k');
  const size = args.value('size');
  const sizeBytes = size === undefined ? undefined : sizeArgument(size, 'image size', context);
  const { nodeCompression } = await import('@qcow2/compression');
  const file = openFile(path, { readOnly: true });
  const lock = await lockOpened(file, rules.shared ? 'shared' : 'reader').catch((error: unknown) => {
    file.close();
    throw error;
  });
  try {
    return await recoverDisk(file, {
      ...{ clusterBytes, sizeBytes, guess: args.has('guess'), compression: nodeCompression() },
      ...(args.has('no-backing')
        ? {}
        : { backing: (header: Qcow2Header) => openBacking(header, path, rules) }),
    });
  } catch (error) {
    file.close();
    lock.release();
    if (!(error instanceof Qcow2Error)) throw error;
    throw new CommandFailure(`Could not recover '${name}': ${describeError(error)}`, { cause: error });
  }
}

/** As the header names it, and by the caller's rules for such names. */
async function openBacking(
  { backingFileName = '', extensions }: Qcow2Header,
  imagePath: string,
  rules: NamingRules,
): Promise<BlockDevice> {
  try {
    const said = findHeaderExtension(extensions, headerExtensionTypes.backingFormat);
    const format = said === undefined ? undefined : decodeBackingFormat(said);
    const found = followName({ role: 'backing', name: backingFileName }, imagePath, rules.follow);
    // Nobody says that it is an image and not a raw disk: what stands in it is not followed.
    const follow = format === undefined ? { ...rules.follow, untrusted: true } : rules.follow;
    const image = await openDiskImage(
      found.path,
      { format: format ?? found.format },
      { ...rules, follow, imageOpts: false },
    );
    return image.device;
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    const why = `${describeError(error)} (--no-backing does without)`;
    throw new CommandFailure(`Could not open backing file: ${why}`, { cause: error });
  }
}

async function copyDisk(
  disk: RecoveredDisk,
  wanted: WantedTarget,
  report: RecoveryReport,
  rules: NamingRules,
  args: ParsedArguments,
  context: CommandContext,
  stop: AbortSignal,
): Promise<void> {
  const { image } = disk;
  const sizeBytes = Math.ceil(image.sizeBytes / sectorBytes) * sectorBytes;
  const plan = planTarget(wanted, { sizeBytes, compressed: false, withBitmaps: false });
  const out = args.value('output') === 'json' ? context.err : context.out;
  const progress = new Progress(progressView(args, context, out), sizeBytes);
  try {
    const target = await openTarget(wanted, plan, [], rules, 'error while recovering');
    try {
      await tellingIncomplete(wanted.name, context, () => fill(disk, target, report, progress, stop));
    } finally {
      await target.image.close();
    }
    progress.complete();
  } finally {
    progress.end();
  }
}

const sectorBytes = 512;
const workers = 8;

async function fill(
  disk: RecoveredDisk,
  target: OpenedTarget,
  report: RecoveryReport,
  progress: Progress,
  stop: AbortSignal,
): Promise<void> {
  const writing = copyTarget(target, { compressed: false, sparseBytes: 4096 });
  const lost = new LostRanges(disk);
  const plan = planned(disk, report, lost);
  const pieces = inUnits(plan, writing.placeBytes, pieceBytesFor(writing.unitBytes));
  await copyPieces(pieces, lost, writing, {
    ...{ workers, inOrder: true, findZeros: true, stop },
    onUnreadable: (offset, error) => {
      const why = error instanceof FormatError ? notDecoded : unreadable;
      report.lose(offset, Math.min(sectorBytes, disk.image.sizeBytes - offset), why);
    },
    onDone: (lengthBytes) => progress.advance(lengthBytes),
  });
  report.finish();
  await target.image.device.flush();
  await target.image.close();
}

const notDecoded = { id: 'not-decoded', text: 'the data there can not be decoded' };
const unreadable = { id: 'unreadable', text: 'the file can not be read there' };

/** The plan, told to the report as it goes. */
async function* planned(
  disk: RecoveredDisk,
  report: RecoveryReport,
  lost: LostRanges,
): AsyncGenerator<CopyPiece, void, undefined> {
  for await (const range of disk.ranges()) {
    report.add(range);
    const { offset, lengthBytes, kind, state } = range;
    if (state === 'lost') lost.note(offset, lengthBytes);
    yield { kind, offset, lengthBytes };
  }
}

/** Reads the disk, and zeros where it is lost: a unit of the target may be lost in part. */
class LostRanges {
  readonly #image: BlockDevice;
  #ranges: { readonly offset: number; readonly end: number }[] = [];

  constructor({ image }: RecoveredDisk) {
    this.#image = image;
  }

  note(offset: number, lengthBytes: number): void {
    // What lies so far back has been read.
    if (this.#ranges.length >= mostNoted) {
      this.#ranges = this.#ranges.filter(({ end }) => end > offset - mostBehindBytes);
    }
    this.#ranges.push({ offset, end: offset + lengthBytes });
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const end = offset + into.length;
    let at = offset;
    for (const range of this.#ranges) {
      if (range.end <= at || range.offset >= end) continue;
      await this.#found(at, into.subarray(at - offset, Math.max(at, range.offset) - offset));
      const until = Math.min(end, range.end);
      into.fill(0, Math.max(at, range.offset) - offset, until - offset);
      at = until;
    }
    await this.#found(at, into.subarray(at - offset));
  }

  async #found(offset: number, into: Uint8Array): Promise<void> {
    if (into.length > 0) await readPadded(this.#image, offset, into);
  }
}

const mostNoted = 10_000;
/** Several times what all workers hold. */
const mostBehindBytes = 256 * 2 ** 20;
