/**
 * `create`: qemu-img's options, checks, and words. Everything is checked before the file is touched, so a
 * wrong option never costs the file that stands there; a failure after that removes what was begun.
 */
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  formattingLine,
  optionsHelp,
  qcow2Options,
  rawFileOptions,
  rawOptions,
  refuseUnsupported,
} from '../create-options.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { besideImage } from '../file-name.ts';
import { createQcow2, createRaw, creationPath, sameFile } from '../image-creation.ts';
import type { WritableFormat } from '../image-format.ts';
import {
  asksForHelp,
  joinLists,
  type ListedOption,
  type OptionValues,
  parseOptionList,
} from '../option-list.ts';
import { objectOption, Secrets } from '../secrets.ts';
import { parseSize } from '../sizes.ts';

export const create: Command = {
  operands: 'FILE [SIZE]',
  options: [
    { name: 'format', short: 'f', argument: 'FMT', help: 'format of the image: qcow2, raw (default)' },
    { name: 'options', short: 'o', argument: 'LIST', help: 'options of the format; -o help lists them' },
    { name: 'backing', short: 'b', argument: 'FILE', help: 'the image that this one is a difference to' },
    { name: 'backing-format', short: 'F', argument: 'FMT', help: 'format of the backing file' },
    { name: 'backing-unsafe', short: 'u', help: 'do not open the backing file' },
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    objectOption,
    { name: 'image-opts', refused: 'not yet' },
  ],
  notes:
    'SIZE takes the suffixes b, k, M, G, T, P, E (powers of 1024) and decimal fractions: 1.5G.\n' +
    'Examples:\n' +
    '  qcow2 create -f qcow2 disk.qcow2 20G\n' +
    '  qcow2 create -f qcow2 -o journal=on disk.qcow2 20G\n' +
    '  qcow2 create -f qcow2 --object secret,id=key,file=passphrase.txt \\\n' +
    '    -o encrypt.format=luks,encrypt.key-secret=key disk.qcow2 20G\n' +
    '  qcow2 create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2',
  run: runCreate,
};

async function runCreate(args: ParsedArguments, context: CommandContext): Promise<number> {
  const secrets = new Secrets(args.values('object'));
  const list = args.has('options') ? joinLists(args.values('options')) : '';
  const [name, sizeText, ...extra] = args.operands;
  if (asksForHelp(list)) {
    context.out(optionsHelp(...formatOptions(args.value('format'), undefined)));
    return 0;
  }
  if (name === undefined) throw usageFailure('Expecting image file name');
  const size = sizeText === undefined ? undefined : sizeOperand(sizeText, context);
  if (extra.length > 0) throw usageFailure(`Unexpected argument: ${extra[0]}`);

  const [format, options] = formatOptions(args.value('format'), name);
  const path = subjectOf(name, () => creationPath(name));
  const values = parseOptionList(options, list, name);
  refuseUnsupported(options, values, name);
  await completeValues(args, format, values, size, name);

  if (!args.has('quiet')) context.out(formattingLine(name, format, options, values));
  if (format === 'raw') await createRaw(path, values, name);
  else await createQcow2(path, values, secrets, name);
  return 0;
}

function sizeOperand(text: string, context: CommandContext): bigint {
  const size = parseSize(text);
  if (size === 'invalid') {
    throw new CommandFailure(
      'Invalid image size specified. You may use k, M, G, T, P or E suffixes for\n' +
        `${context.programName}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
    );
  }
  if (size === 'too large' || size.bytes >= 2n ** 63n) {
    throw new CommandFailure('Invalid image size specified. Must be between 0 and 9223372036854775807.');
  }
  if (size.hexSuffix) {
    context.err(
      `${context.programName}: warning: Using a multiplier suffix on hex numbers is deprecated: ${text}\n`,
    );
  }
  return size.bytes;
}

function formatOptions(
  given: string | undefined,
  name: string | undefined,
): [WritableFormat, readonly ListedOption[]] {
  const format = given ?? 'raw';
  if (format === 'qcow2') return [format, qcow2Options];
  if (format === 'raw') return [format, name === undefined ? rawOptions : rawFileOptions];
  throw new CommandFailure(`${name === undefined ? '' : `${name}: `}Unknown file format '${format}'`);
}

/** Put in what comes from other options and from the backing file: its name and format, and the size. */
async function completeValues(
  args: ParsedArguments,
  format: WritableFormat,
  values: OptionValues,
  size: bigint | undefined,
  name: string,
): Promise<void> {
  const given = { backing_file: args.value('backing'), backing_fmt: args.value('backing-format') };
  if (given.backing_file !== undefined && format === 'raw') {
    throw new CommandFailure(`${name}: Backing file not supported for file format 'raw'`);
  }
  if (given.backing_fmt !== undefined && format === 'raw') {
    throw new CommandFailure(`${name}: Backing format not supported for file format 'raw'`);
  }
  for (const [option, text] of Object.entries(given)) {
    if (text !== undefined) values.set(option, { text, value: text });
  }
  if (size !== undefined) {
    if (values.has('size')) {
      throw new CommandFailure(`${name}: The image size must be specified only once`);
    }
    values.set('size', { text: String(size), value: size });
  }
  const backingBytes = await checkBacking(args, values, name);
  if (values.has('size')) return;
  if (backingBytes === undefined) {
    throw new CommandFailure(`${name}: Image creation needs a size parameter`);
  }
  values.set('size', { text: String(backingBytes), value: BigInt(backingBytes) });
}

/** @returns the size of the backing file as a guest sees it, where there is one and it may be opened */
async function checkBacking(
  args: ParsedArguments,
  values: OptionValues,
  name: string,
): Promise<number | undefined> {
  const backing = values.get('backing_file')?.text;
  if (backing === undefined) return undefined;
  if (backing === '') throw new CommandFailure(`${name}: Expected backing file name, got empty string`);
  const backingPath = besideImage(name, backing);
  if (sameFile(name, backingPath)) {
    throw new CommandFailure(
      `${name}: Error: Trying to create an image with the same filename as the backing file`,
    );
  }
  const format = values.get('backing_fmt')?.text;
  if (args.has('backing-unsafe')) {
    if (format === undefined)
      throw new CommandFailure(`${name}: Backing file specified without backing format`);
    return undefined;
  }
  const { openForReading } = await import('../open-image.ts');
  let opened: Awaited<ReturnType<typeof openForReading>>;
  try {
    opened = await openForReading(backingPath, format);
  } catch (error) {
    throw new CommandFailure(
      `${name}: ${backingFailure(backingPath, error)}\nCould not open backing image.`,
      {
        cause: error,
      },
    );
  }
  const { virtualSizeBytes } = opened;
  await opened.close();
  if (format === undefined) {
    throw new CommandFailure(
      `${name}: Backing file specified without backing format\nDetected format of ${opened.format}.`,
    );
  }
  return virtualSizeBytes;
}

function backingFailure(path: string, error: unknown): string {
  return error instanceof Qcow2Error && error.code === 'NOT_FOUND'
    ? `Could not open '${path}': No such file or directory`
    : describeError(error);
}

function subjectOf<T>(name: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw error instanceof CommandFailure ? new CommandFailure(`${name}: ${error.message}`) : error;
  }
}
