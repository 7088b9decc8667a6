/** `map`: where the bytes of a disk stand, file by file, in qemu-img's lines. */
import type { ParsedArguments } from '../arguments.ts';
import { type BlockStatus, blockStatuses } from '../block-status.ts';
import type { Command, CommandContext } from '../command.ts';
import { imageOptions, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import type { OpenedLayer } from '../open-image.ts';
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
    { name: 'max-length', short: 'l', argument: 'LENGTH', help: 'how far to look; default: to the end' },
  ],
  notes:
    'Text lists what has bytes in a file; JSON also what reads as zeros, and from which depth of the chain it comes.\n' +
    'Examples:\n' +
    '  qcow2 map overlay.qcow2\n' +
    '  qcow2 map --output=json -s 1G -l 64M disk.qcow2',
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

/** Neighbours that say the same are one line. */
async function* merged(statuses: AsyncIterable<BlockStatus>): AsyncGenerator<BlockStatus, void, undefined> {
  let last: BlockStatus | undefined;
  for await (const next of statuses) {
    if (last !== undefined && goesOn(last, next)) {
      last = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
    } else {
      if (last !== undefined) yield last;
      last = next;
    }
  }
  if (last !== undefined) yield last;
}

function goesOn(last: BlockStatus, next: BlockStatus): boolean {
  if (last.data !== next.data || last.zero !== next.zero || last.present !== next.present) return false;
  if (last.depth !== next.depth) return false;
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
    for await (const { data, zero, hostOffset, depth, offset, lengthBytes } of statuses) {
      if (!data || zero) continue;
      if (hostOffset === undefined) {
        throw new CommandFailure('File contains external, encrypted or compressed clusters.');
      }
      const numbers = [offset, lengthBytes, hostOffset].map((value) => hex(value).padEnd(16));
      const layer = layers[depth]!;
      text.add(`${numbers.join('')}${layer.dataPath ?? layer.path}\n`);
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
