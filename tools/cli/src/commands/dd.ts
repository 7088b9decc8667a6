/** `dd`: part of a disk, copied by blocks, in qemu-img's way: `count` says where reading ends, and what `skip` passes over counts. */
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { copyTarget, openTarget, planTarget, tellingIncomplete } from '../convert-target.ts';
import { type CopyPiece, inUnits } from '../copy/copy-plan.ts';
import { copyPieces, pieceBytesFor } from '../copy/disk-copy.ts';
import {
  type DiskImage,
  imageOptions,
  type NamingRules,
  namingRules,
  openDiskImage,
  shareOption,
} from '../disk-image.ts';
import { CommandFailure } from '../failures.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { sizeArgument } from '../size-option.ts';

export const dd: Command = {
  operands: 'if=FILE of=FILE [bs=BYTES] [count=BLOCKS] [skip=BLOCKS]',
  options: [
    ...imageOptions,
    {
      name: 'target-format',
      short: 'O',
      argument: 'FMT',
      help: 'format of the output: raw (default), qcow2',
    },
    shareOption,
    progressOption,
  ],
  notes: 'Example:\n  qcow2 dd -O qcow2 bs=1M count=64 if=disk.raw of=start.qcow2',
  run: runDd,
};

interface Wanted {
  readonly from: string;
  readonly to: string;
  readonly blockBytes: number;
  readonly count: number | undefined;
  readonly skip: number;
}

const usualBlockBytes = 512;
const mostBlockBytes = 2 ** 31 - 1;
const workers = 4;

async function runDd(args: ParsedArguments, context: CommandContext): Promise<number> {
  const rules = namingRules(args, context);
  const wanted = operandsOf(args.operands, context);
  const source = await openDiskImage(wanted.from, { format: args.value('format') }, rules);
  try {
    const format = args.value('target-format') ?? 'raw';
    if (format !== 'raw' && format !== 'qcow2') throw new CommandFailure('Unknown file format');
    await copyBlocks(source, wanted, format, rules, { args, context });
  } finally {
    await source.close();
  }
  return 0;
}

function operandsOf(operands: readonly string[], context: CommandContext): Wanted {
  const given = new Map<string, string>();
  for (const operand of operands) {
    const [name = '', ...rest] = operand.split('=');
    if (!['bs', 'count', 'if', 'of', 'skip'].includes(name) || rest.length === 0) {
      throw new CommandFailure(`unrecognized operand ${name}`);
    }
    given.set(name, rest.join('='));
    if (name === 'bs') blockBytesOf(rest.join('='), context);
    else if (name === 'count' || name === 'skip') sizeArgument(rest.join('='), name, context);
  }
  const from = given.get('if');
  const to = given.get('of');
  if (from === undefined || to === undefined)
    throw new CommandFailure('Must specify both input and output files');
  const blocks = (name: string): number | undefined => {
    const text = given.get(name);
    return text === undefined ? undefined : sizeArgument(text, name, context);
  };
  const bs = given.get('bs');
  return {
    from,
    to,
    blockBytes: bs === undefined ? usualBlockBytes : blockBytesOf(bs, context),
    count: blocks('count'),
    skip: blocks('skip') ?? 0,
  };
}

function blockBytesOf(text: string, context: CommandContext): number {
  const outside = `Invalid bs specified. Must be between 1 and ${mostBlockBytes}.`;
  try {
    const bytes = sizeArgument(text, 'bs', context);
    if (bytes >= 1 && bytes <= mostBlockBytes) return bytes;
  } catch (error) {
    if (error instanceof CommandFailure && error.message.includes('Must be'))
      throw new CommandFailure(outside);
    throw error;
  }
  throw new CommandFailure(outside);
}

async function copyBlocks(
  source: DiskImage,
  { to, blockBytes, count, skip }: Wanted,
  format: string,
  rules: NamingRules,
  { args, context }: { readonly args: ParsedArguments; readonly context: CommandContext },
): Promise<void> {
  const { stop } = context;
  const end = Math.min(
    source.device.sizeBytes,
    count === undefined ? Number.POSITIVE_INFINITY : count * blockBytes,
  );
  const start = skip * blockBytes;
  if (start > end) context.err(`${context.programName}: ${source.name}: cannot skip to specified offset\n`);
  const sizeBytes = Math.max(0, end - start);
  const target = {
    ...{ name: to, format, exists: false, imageOpts: false, isZero: false },
    ...{ backing: undefined, backingFormat: undefined, optionList: '' },
  };
  const plan = planTarget(target, { sizeBytes, compressed: false, withBitmaps: false });
  const opened = await openTarget(target, plan, [source], rules, 'error while creating output image');
  const progress = new Progress(progressView(args, context), sizeBytes);
  try {
    await tellingIncomplete(to, context, async () => {
      const writing = copyTarget(opened, { compressed: false, sparseBytes: 0 });
      const reader = { read: (offset: number, into: Uint8Array) => source.device.read(start + offset, into) };
      const pieces = inUnits(wholly(sizeBytes), writing.placeBytes, pieceBytesFor(writing.unitBytes));
      const onDone = (lengthBytes: number): void => progress.advance(lengthBytes);
      await copyPieces(pieces, reader, writing, { workers, inOrder: true, findZeros: false, stop, onDone });
      await opened.image.close();
      progress.complete();
    });
  } finally {
    progress.end();
    await opened.image.close();
  }
}

async function* wholly(lengthBytes: number): AsyncGenerator<CopyPiece, void, undefined> {
  if (lengthBytes > 0) yield { kind: 'data', offset: 0, lengthBytes };
}
