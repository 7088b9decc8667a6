/** `bitmap`: changes of persistent bitmaps. qemu-img's options, texts and exit codes; the actions are done in the order given. */
import { type BitmapInfo, openImage, type Qcow2Image } from '@qcow2/driver';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, describeError } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { imageNameOptions, namedImage } from '../named-image.ts';
import { explainingOpen, openImageFile } from '../open-image.ts';
import { parseSize } from '../sizes.ts';
import { withWritableImage } from '../writable-image.ts';

export const bitmap: Command = {
  operands: 'FILE BITMAP',
  options: [
    { name: 'add', help: 'make a bitmap, which is on from now on' },
    { name: 'remove', help: 'take it away' },
    { name: 'clear', help: 'nothing is dirty in it any more' },
    { name: 'enable', help: 'writes are recorded in it from now on' },
    { name: 'disable', help: 'they are not' },
    { name: 'merge', argument: 'SOURCE', help: 'what is dirty in the bitmap SOURCE is dirty in it as well' },
    { name: 'granularity', short: 'g', argument: 'SIZE', help: 'with --add: bytes for each bit' },
    { name: 'source-file', short: 'b', argument: 'FILE', help: 'with --merge: the image that has SOURCE' },
    { name: 'source-format', short: 'F', argument: 'FMT', help: 'with -b: its format' },
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2; found by itself if not given' },
    ...followOptions,
    ...imageNameOptions,
  ],
  notes:
    'With a journal a crash leaves each change done or not begun, and a bitmap that is on stays right.\n' +
    'Example:\n' +
    '  qcow2 bitmap --add -g 64k disk.qcow2 monday',
  run: runBitmap,
};

const actions = ['add', 'remove', 'clear', 'enable', 'disable', 'merge'] as const;
type Action = (typeof actions)[number];

async function runBitmap(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name, bitmapName, ...extra] = args.operands;
  if (name === undefined || bitmapName === undefined || extra.length > 0) {
    throw new CommandFailure('Expecting filename and bitmap name');
  }
  const wanted = args.names.filter((option): option is Action => actions.some((action) => action === option));
  const granularityBytes = granularity(args, context);
  if (wanted.length === 0) {
    throw new CommandFailure(
      'Need at least one of --add, --remove, --clear, --enable, --disable, or --merge',
    );
  }
  if (granularityBytes !== undefined && !wanted.includes('add')) {
    throw new CommandFailure('granularity only supported with --add');
  }
  if (args.has('source-format') && !args.has('source-file'))
    throw new CommandFailure('-F only supported with -b');
  if (args.has('source-file') && !wanted.includes('merge')) {
    throw new CommandFailure('Merge bitmap source file only supported with --merge');
  }
  await withWritableImage(
    namedImage(args, name),
    { follow: followPolicy(args), metadataOnly: true },
    async (image) => {
      for (const action of wanted) await act(image, action, bitmapName, args, granularityBytes);
    },
    () => {
      throw failed(wanted[0]!, bitmapName, 'a raw file holds no bitmaps');
    },
  );
  return 0;
}

function granularity(args: ParsedArguments, { programName }: CommandContext): number | undefined {
  const text = args.value('granularity');
  if (text === undefined) return undefined;
  const size = parseSize(text);
  if (typeof size === 'object') return Number(size.bytes);
  throw new CommandFailure(
    'Invalid granularity specified. You may use k, M, G, T, P or E suffixes for\n' +
      `${programName}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
  );
}

async function act(
  image: Qcow2Image,
  action: Action,
  name: string,
  args: ParsedArguments,
  granularityBytes: number | undefined,
): Promise<void> {
  try {
    switch (action) {
      case 'add':
        return await add(image, name, granularityBytes);
      case 'merge':
        for (const source of args.values('merge')) await merge(image, name, source, args);
        return;
      case 'remove':
        await required(image, name, { inconsistent: true });
        return await image.removeBitmap(name);
      default:
        await required(image, name);
        if (action === 'clear') await image.clearBitmap(name);
        else if (action === 'enable') await image.enableBitmap(name);
        else await image.disableBitmap(name);
    }
  } catch (error) {
    throw failed(action, name, error instanceof Explained ? error.message : describeError(error), error);
  }
}

async function add(image: Qcow2Image, name: string, granularityBytes: number | undefined): Promise<void> {
  if (name === '') throw new Explained('Bitmap name cannot be empty');
  // Zero is qemu-img's word for the default.
  const wanted = granularityBytes === 0 ? undefined : granularityBytes;
  if (wanted !== undefined && !(wanted >= 512 && wanted <= 2 ** 31 && Number.isInteger(Math.log2(wanted)))) {
    throw new Explained('Granularity must be power of 2 and at least 512');
  }
  if ((await image.bitmaps()).some((one) => one.name === name)) {
    throw new Explained(`Bitmap already exists: ${name}`);
  }
  await image.addBitmap(name, { granularityBytes: wanted });
}

async function merge(image: Qcow2Image, name: string, source: string, args: ParsedArguments): Promise<void> {
  const path = args.value('source-file');
  await required(image, name);
  if (path === undefined) {
    await required(image, source);
    await image.mergeBitmap(name, source);
    return;
  }
  const opened = await openImageFile(path, { format: args.value('source-format'), readOnly: true });
  try {
    if (opened.format !== 'qcow2') throw new Explained(`Dirty bitmap '${source}' not found`);
    // Its bitmaps are looked at, and no byte of its disk.
    const from = await explainingOpen(path, () =>
      openImage(opened.device, { readOnly: true, backing: 'none' }),
    );
    await required(from, source);
    if (from.sizeBytes !== image.sizeBytes) {
      throw new Explained(
        `Bitmaps are of different sizes (destination size is ${image.sizeBytes}, ` +
          `source size is ${from.sizeBytes}) and can't be merged`,
      );
    }
    await image.mergeBitmap(name, source, from);
  } finally {
    await opened.close();
  }
}

/** The bitmap is there, and can be used. */
async function required(image: Qcow2Image, name: string, { inconsistent = false } = {}): Promise<BitmapInfo> {
  const found = (await image.bitmaps()).find((one) => one.name === name);
  if (found === undefined) throw new Explained(`Dirty bitmap '${name}' not found`);
  if (!found.inconsistent || inconsistent) return found;
  throw new Explained(
    `Bitmap '${name}' is inconsistent and cannot be used\n` +
      'Try block-dirty-bitmap-remove to delete this bitmap from disk',
  );
}

/** In qemu-img's words already. */
class Explained extends CommandFailure {}

function failed(action: Action, name: string, why: string, cause?: unknown): CommandFailure {
  if (cause instanceof CommandFailure && !(cause instanceof Explained)) return cause;
  return new CommandFailure(`Operation ${action} on bitmap ${name} failed: ${why}`, { cause });
}
