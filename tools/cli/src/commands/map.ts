/** `map`: where the bytes of a disk stand, file by file, in qemu-img's lines. */
import type { ParsedArguments } from '../arguments.ts';
import { type BlockStatus, blockStatuses } from '../block-status.ts';
import type { Command, CommandContext } from '../command.ts';
import { imageOptions, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { type OpenedLayer, openImageFile, requireQcow2 } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { sizeArgument } from '../size-option.ts';
import { TextBuffer } from '../text-buffer.ts';

export const map: Command = {
  operands: 'FILE',
  options: [
    ...imageOptions,
    outputOption,
    shareOption,
    { name: 'start-offset', short: 's', argument: 'OFFSET', help: 'where to begin; default: 0' },
    { name: 'picture', help: 'draw what the clusters of the file itself are used for' },
    { name: 'svg', help: 'the same picture, as SVG' },
    { name: 'max-length', short: 'l', argument: 'LENGTH', help: 'how far to look; default: to the end' },
  ],
  notes:
    'Text lists what has bytes in a file; JSON also what reads as zeros, and from which depth of the chain it comes.\n' +
    'Examples:\n' +
    '  qcow2 map overlay.qcow2\n' +
    '  qcow2 map --output=json -s 1G -l 64M disk.qcow2\n' +
    '  qcow2 map --picture disk.qcow2\n' +
    '  qcow2 map --svg disk.qcow2 > disk.svg',
  run: runMap,
};

async function runMap(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const [start, length] = (
    [
      ['start-offset', 'start offset'],
      ['max-length', 'max length'],
    ] as const
  ).map(([option, subject]) => {
    const text = args.value(option);
    return text === undefined ? undefined : sizeArgument(text, subject, context);
  });
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  if (args.has('picture') || args.has('svg')) return await drawFile(name, args, context);
  const rules = namingRules(args, context);
  const image = await openDiskImage(name, { format: args.value('format') }, rules);
  try {
    const { sizeBytes } = image.device;
    const from = start ?? 0;
    const lengthBytes = Math.max(0, Math.min(length ?? Number.MAX_SAFE_INTEGER, sizeBytes - from));
    const print = output === 'human' ? printText : printJson;
    await print(merged(blockStatuses(image.layers, from, lengthBytes)), image.layers, from, context);
  } finally {
    await image.close();
  }
  return 0;
}

const svgColumns = 96;
const svgCells = 96 * 64;
const textLines = 32;
const usualColumns = 64;

/** The file's clusters, one of the image alone: what is below it is not opened. */
async function drawFile(name: string, args: ParsedArguments, context: CommandContext): Promise<number> {
  const [{ readImageHeader }, { hostUse }, { svgPicture, textPicture }] = await Promise.all([
    import('@qcow2/driver'),
    import('../picture/host-use.ts'),
    import('../picture/pictures.ts'),
  ]);
  if (args.has('start-offset') || args.has('max-length') || args.value('output') === 'json') {
    throw new CommandFailure('a picture shows the whole file, and neither ranges nor JSON');
  }
  const opened = await openImageFile(name, { readOnly: true, shared: args.has(shareOption.name) });
  try {
    requireQcow2(opened, 'map --picture');
    const { header } = await readImageHeader(opened.device);
    if (args.has('svg')) {
      context.out(svgPicture(await hostUse(opened.device, header, svgCells), svgColumns));
      return 0;
    }
    const { columns: width = usualColumns + 16, colour = false } = context.terminal ?? {};
    const columns = Math.max(16, 2 ** Math.floor(Math.log2(Math.max(16, width - 16))));
    const use = await hostUse(opened.device, header, columns * textLines);
    context.out(textPicture(use, { columns, colour }));
    return 0;
  } finally {
    await opened.close();
  }
}

/** Neighbours that say the same are one line. */
async function* merged(statuses: AsyncIterable<BlockStatus>): AsyncGenerator<BlockStatus, void, undefined> {
  let last: BlockStatus | undefined;
  for await (const status of statuses) {
    const next = asShown(status);
    if (last !== undefined && goesOn(last, next)) {
      last = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
    } else {
      if (last !== undefined) yield last;
      last = next;
    }
  }
  if (last !== undefined) yield last;
}

/** QEMU shows what a context marks as what is not there, so that scripts find what a bitmap says is dirty. */
function asShown(status: BlockStatus): BlockStatus {
  if (status.marked !== true) return status;
  return { ...status, data: false, present: false, hostOffset: undefined };
}

function goesOn(last: BlockStatus, next: BlockStatus): boolean {
  if (last.data !== next.data || last.zero !== next.zero || last.present !== next.present) return false;
  if (last.depth !== next.depth || last.path !== next.path) return false;
  const expected = last.hostOffset === undefined ? undefined : last.hostOffset + last.lengthBytes;
  return expected === next.hostOffset;
}

type Print = (
  statuses: AsyncIterable<BlockStatus>,
  layers: readonly OpenedLayer[],
  from: number,
  context: CommandContext,
) => Promise<void>;

const printText: Print = async (statuses, layers, _from, context) => {
  const text = new TextBuffer(context.out);
  text.add(`${['Offset', 'Length', 'Mapped to'].map((title) => title.padEnd(16)).join('')}File\n`);
  try {
    for await (const { data, zero, hostOffset, depth, offset, lengthBytes, path } of statuses) {
      if (!data || zero) continue;
      if (hostOffset === undefined) {
        throw new CommandFailure('File contains external, encrypted or compressed clusters.');
      }
      const numbers = [offset, lengthBytes, hostOffset].map((value) => hex(value).padEnd(16));
      const layer = layers[depth]!;
      text.add(`${numbers.join('')}${path ?? layer.dataPath ?? layer.path}\n`);
      await context.drained?.();
    }
  } finally {
    text.flush();
  }
};

/** As C's "%#x", which leaves the mark off zero. */
function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}

const printJson: Print = async (statuses, _layers, from, context) => {
  const text = new TextBuffer(context.out);
  let separator = '[';
  for await (const status of statuses) {
    text.add(`${separator}${jsonLine(status)}`);
    separator = ',\n';
    await context.drained?.();
  }
  if (separator === '[') {
    const nothing = { offset: from, lengthBytes: 0, data: false, zero: false, present: false, depth: 0 };
    text.add(`[${jsonLine({ ...nothing, hostOffset: undefined })}`);
  }
  text.add(']\n');
  text.flush();
};

function jsonLine({ offset, lengthBytes, depth, present, zero, data, hostOffset }: BlockStatus): string {
  const place = hostOffset === undefined ? '' : `, "offset": ${hostOffset}`;
  return (
    `{ "start": ${offset}, "length": ${lengthBytes}, "depth": ${depth}, ` +
    `"present": ${present}, "zero": ${zero}, "data": ${data}${place}}`
  );
}
