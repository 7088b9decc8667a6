/**
 * `convert`: a disk, or several one behind the other, copied to an image of any served format. qemu-img's options, checks and words, in
 * its order. Everything that can be refused is refused before the target is made; what stops the copy after that says that the
 * target is incomplete.
 */
import type { ParsedArguments } from '../arguments.ts';
import { checkCacheMode, sourceCacheOption, targetCacheOption } from '../cache-modes.ts';
import type { Command, CommandContext } from '../command.ts';
import { type ConvertJob, convertImages } from '../convert-job.ts';
import { targetHelp } from '../convert-target.ts';
import { imageOptions, namingRules, shareOption } from '../disk-image.ts';
import { CommandFailure } from '../failures.ts';
import { asksForHelp, joinLists } from '../option-list.ts';
import { progressOption, progressView } from '../progress.ts';
import { sizeArgument } from '../size-option.ts';
import { snapshotOption, wantedSnapshot } from '../snapshot-choice.ts';

export const convert: Command = {
  operands: 'FILE [FILE…] TARGET',
  options: [
    ...imageOptions,
    {
      name: 'target-format',
      short: 'O',
      argument: 'FMT',
      help: 'format of the target: raw (default), qcow2',
    },
    { name: 'options', short: 'o', argument: 'LIST', help: 'options of that format; -o help lists them' },
    { name: 'compress', short: 'c', help: 'compressed clusters, of qcow2' },
    { name: 'backing', short: 'B', argument: 'FILE', help: 'the target is a difference to this image' },
    { name: 'backing-format', short: 'F', argument: 'FMT', help: 'format of the backing file' },
    { name: 'no-create', short: 'n', help: 'the target is there already, and is written over' },
    { name: 'target-is-zero', help: 'with -n: the target reads as zeros' },
    { name: 'target-image-opts', help: "with -n: TARGET is a list of QEMU's options" },
    {
      name: 'sparse-size',
      short: 'S',
      argument: 'SIZE',
      help: 'zeros of this length take no space (default 4k; 0: everything does)',
    },
    { name: 'workers', short: 'm', argument: 'N', help: 'pieces under way at once, 1 to 16 (default 8)' },
    { name: 'out-of-order', short: 'W', help: 'write pieces as they come' },
    {
      name: 'copy-offload',
      short: 'C',
      help: 'let the system copy from file to file where it can; zeros within data too',
    },
    { name: 'rate', short: 'r', argument: 'BYTES', help: 'read no more than this a second' },
    snapshotOption,
    { name: 'bitmaps', help: 'copy the bitmaps of the image as well' },
    { name: 'skip-broken-bitmaps', help: 'with --bitmaps: leave out those that can not be used' },
    { name: 'salvage', help: 'what can not be read is zeros in the target, and told of' },
    targetCacheOption,
    sourceCacheOption,
    progressOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    shareOption,
  ],
  notes:
    'Examples:\n' +
    '  qcow2 convert -p -O qcow2 disk.raw disk.qcow2\n' +
    '  qcow2 convert -c -W -O qcow2 -o compression_type=zstd disk.raw small.qcow2\n' +
    '  qcow2 convert -O qcow2 -o journal=on old.qcow2 new.qcow2',
  run: runConvert,
};

async function runConvert(args: ParsedArguments, context: CommandContext): Promise<number> {
  const shared = sharedSettings(args, context);
  const format = args.value('target-format') ?? 'raw';
  const names = args.operands.slice(0, -1);
  const target = args.operands.at(-1);
  const list = args.has('options') ? joinLists(args.values('options')) : '';
  if (asksForHelp(list)) {
    context.out(targetHelp(format, names.length > 0 ? target : undefined));
    return 0;
  }
  checkTogether(args, list);
  if (target === undefined || names.length === 0) throw new CommandFailure('Must specify image file name');
  checkCacheMode(args.value('cache'), 'cache');
  checkCacheMode(args.value('source-cache'), 'source cache');
  const wanted = wantedSnapshot(args.value('snapshot'), context);
  if (wanted !== undefined && names.length > 1) {
    throw new CommandFailure('No support for concatenating multiple snapshot');
  }
  if (args.has('backing') && names.length > 1) {
    throw new CommandFailure(
      'Having a backing file for the target makes no sense when concatenating multiple input images',
    );
  }
  const job: ConvertJob = {
    ...shared,
    names,
    format: args.value('format'),
    target: {
      name: target,
      format,
      exists: args.has('no-create'),
      imageOpts: args.has('target-image-opts'),
      isZero: args.has('target-is-zero'),
      backing: args.value('backing'),
      backingFormat: args.value('backing-format'),
      optionList: list,
    },
    snapshot: wanted,
    rules: namingRules(args, context),
  };
  await convertImages(job, context);
  return 0;
}

function sharedSettings(args: ParsedArguments, context: CommandContext) {
  const rate = args.value('rate');
  const cache = args.value('cache');
  return {
    workers: workersOf(args.value('workers')),
    sparseBytes: sparseBytesOf(args.value('sparse-size'), context),
    inOrder: !args.has('out-of-order'),
    compressed: args.has('compress'),
    offload: args.has('copy-offload'),
    salvage: args.has('salvage'),
    progress: progressView(args, context),
    quiet: args.has('quiet'),
    bytesPerSecond: rate === undefined ? undefined : sizeArgument(rate, 'rate limit', context),
    durable: cache !== undefined && cache !== 'unsafe',
    // What was there before is worth its order until it is said not to be.
    expendable: cache === undefined ? !args.has('no-create') : cache === 'unsafe',
    bitmaps: args.has('bitmaps') ? (args.has('skip-broken-bitmaps') ? 'sound' : 'all') : 'none',
  } as const;
}

const mostWorkers = 16;
const usualWorkers = 8;

function workersOf(text: string | undefined): number {
  if (text === undefined) return usualWorkers;
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= mostWorkers) return count;
  throw new CommandFailure(
    `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${mostWorkers}`,
  );
}

const sectorBytes = 512;
const usualSparseBytes = 4096;
const mostSparseBytes = 16 * 1024 * 1024;

function sparseBytesOf(text: string | undefined, context: CommandContext): number {
  if (text === undefined) return usualSparseBytes;
  const bytes = sizeArgument(text, 'buffer size for sparse output', context);
  if (bytes % sectorBytes === 0 && bytes <= mostSparseBytes) return bytes;
  throw new CommandFailure(
    `Invalid buffer size for sparse output specified. Valid sizes are multiples of ${sectorBytes} up to ` +
      `${mostSparseBytes}. Select 0 to disable sparse detection (fully allocates output).`,
  );
}

function checkTogether(args: ParsedArguments, list: string): void {
  const refuse = (message: string): never => {
    throw new CommandFailure(message);
  };
  if (args.has('target-image-opts') && args.has('target-format')) {
    refuse('--image-opts and --format are mutually exclusive');
  }
  if (args.has('image-opts') && args.has('format'))
    refuse('--image-opts and --format are mutually exclusive');
  if (args.has('skip-broken-bitmaps') && !args.has('bitmaps')) {
    refuse('Use of --skip-broken-bitmaps requires --bitmaps');
  }
  if (args.has('copy-offload')) {
    if (args.has('compress')) refuse('Cannot enable copy offloading when -c is used');
    if (args.has('sparse-size')) refuse('Cannot enable copy offloading when -S is used');
    if (args.has('salvage')) refuse('Cannot use copy offloading in salvaging mode');
  }
  if (args.has('target-image-opts') && !args.has('no-create')) {
    refuse('--target-image-opts requires use of -n flag');
  }
  if (args.has('no-create') && list !== '') refuse('-o has no effect when skipping image creation');
  if (args.has('target-is-zero') && !args.has('no-create'))
    refuse('--target-is-zero requires use of -n flag');
}
