/** `journal info|dump|enable|convert|disable|resize|replay`: what can be done to an image's journal while nobody uses the image. */
import { type JournalOptions, type JournalStatus, openImage } from '@qcow2/driver';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { readHeader } from '../gather-facts.ts';
import { type JsonObject, journalJson, treeText } from '../image-report.ts';
import { journalContents } from '../journal-contents.ts';
import { dumpJournal } from '../journal-dump.ts';
import { dumpDraftJournal } from '../journal-dump-draft.ts';
import { JsonDump } from '../journal-dump-json.ts';
import { TextDump } from '../journal-dump-text.ts';
import { boundJournal } from '../journal-facts.ts';
import { jsonText } from '../json-text.ts';
import { namedImage } from '../named-image.ts';
import { explainingOpen, imageFacts, openChain, openImageFile, requireQcow2 } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { objectOption } from '../secrets.ts';
import { parseSize } from '../sizes.ts';
import { TextBuffer } from '../text-buffer.ts';
import { standsAlone } from '../writable-image.ts';

export const journal: Command = {
  operands: 'info|dump|enable|convert|disable|resize|replay FILE',
  options: [
    {
      name: 'size',
      argument: 'SIZE',
      help: 'enable, convert, resize: bytes that the journal takes in the image',
    },
    {
      name: 'block-size',
      argument: 'SIZE',
      help: 'enable, convert, resize: the unit of records, 512 to 2M (default 4k)',
    },
    { name: 'profile', argument: 'PROFILE', help: 'enable, convert: v1 (default) or draft-2013' },
    outputOption,
    { name: 'force-share', short: 'U', help: 'info, dump: also if somebody may be writing to it' },
    ...followOptions,
    { name: 'payload', help: 'dump: the bytes of writes too, in hexadecimal' },
    objectOption,
    { name: 'key-secret', argument: 'ID', help: 'the secret that opens an encrypted image' },
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
  ],
  notes:
    'info     where it stands, whether it is to be replayed, and how much it holds\n' +
    'dump     both header slots and every live record, each change with what it belongs to; read-only,\n' +
    '         works on damaged journals, and says what recovery would say\n' +
    'enable   make a journal in an image that has none\n' +
    'convert  put a journal of the profile given in the place of the one that the image has\n' +
    'disable  write everything back and take the journal away\n' +
    'resize   give it another size or block size; a crash leaves the old journal or the new one\n' +
    'replay   recover an image that was not closed, so that programs that know no journal can open it\n' +
    '\n' +
    'Example, after a crash: what is the last thing that was logged?\n' +
    '  qcow2 journal dump disk.qcow2 | tail -20\n' +
    '  qcow2 journal dump --output=json disk.qcow2 | jq .damage',
  run: runJournal,
};

const actions: Readonly<
  Record<string, (name: string, args: ParsedArguments, context: CommandContext) => Promise<void>>
> = {
  info: showJournal,
  dump: showLog,
  enable: enableJournal,
  convert: convertJournal,
  disable: disableJournal,
  resize: resizeJournal,
  replay: replayJournal,
};

/** What belongs to some verbs only. */
const optionsOf: Readonly<Record<string, readonly string[]>> = {
  enable: ['size', 'block-size', 'profile'],
  convert: ['size', 'block-size', 'profile'],
  resize: ['size', 'block-size'],
};

async function runJournal(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [verb, name, ...extra] = args.operands;
  const action = verb === undefined || !Object.hasOwn(actions, verb) ? undefined : actions[verb];
  if (action === undefined) {
    throw usageFailure(
      `Expecting journal info, dump, enable, convert, disable, resize or replay${verb === undefined ? '' : `, not '${verb}'`}`,
    );
  }
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const takes = optionsOf[verb ?? ''] ?? [];
  for (const option of ['size', 'block-size', 'profile']) {
    if (args.has(option) && !takes.includes(option)) {
      throw usageFailure(`--${option} does not belong to journal ${verb}`);
    }
  }
  if (verb !== 'dump' && args.has('payload')) throw usageFailure('--payload belongs to journal dump');
  await action(name, args, context);
  return 0;
}

async function showJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const output = outputFormat(args);
  const facts = await imageFacts(name, { shared: args.has('force-share') });
  const found = facts.qcow2?.journal;
  if (found === undefined) throw new CommandFailure(`'${name}' has no journal`);
  const tree = { ...journalJson(found), ...(await contentsOf(name, args)) };
  context.out(
    output === 'json'
      ? `${jsonText({ filename: name, ...tree })}\n`
      : `${[`image: ${name}`, ...treeText(tree, 0)].join('\n')}\n`,
  );
}

/** What the log holds, where the range is still the journal's: read from the file, opened for reading. */
async function contentsOf(name: string, args: ParsedArguments): Promise<JsonObject> {
  const opened = await openImageFile(name, { readOnly: true, shared: args.has('force-share') });
  try {
    const { device } = opened;
    const header = await explainingOpen(name, () => readHeader(device));
    if (header.draftJournal !== undefined) return {};
    const bound = await explainingOpen(name, async () => boundJournal(header));
    if (bound === undefined || bound.state === 'stale') return {};
    return await journalContents(device, bound.main);
  } finally {
    await opened.close();
  }
}

/** From one file alone, opened for reading; no name that stands in it is followed. */
async function showLog(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const output = outputFormat(args);
  const opened = await openImageFile(name, { readOnly: true, shared: args.has('force-share') });
  try {
    requireQcow2(opened, 'journal');
    const { device } = opened;
    const header = await explainingOpen(name, () => readHeader(device));
    if (header.draftJournal !== undefined) {
      const source = { name, device, header, binding: header.draftJournal, payload: args.has('payload') };
      await dumpDraftJournal({ ...source, drained: async () => await context.drained?.() }, output, (text) =>
        context.out(text),
      );
      return;
    }
    const found = await explainingOpen(name, async () => boundJournal(header));
    if (found === undefined) throw new CommandFailure(`'${name}' has no journal`);
    const out = new TextBuffer((text) => context.out(text));
    const print = (text: string): void => out.add(text);
    const printer = output === 'json' ? new JsonDump(print) : new TextDump(print);
    const payload = args.has('payload');
    const drained = async (): Promise<void> => await context.drained?.();
    await dumpJournal({ name, device, header, journal: found, payload, drained }, printer);
    out.flush();
  } finally {
    await opened.close();
  }
}

async function enableJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const options = journalOptions(args);
  await withImage(name, args, async (image) => {
    if (image.journalStatus() !== undefined) throw new CommandFailure(`'${name}' has a journal already`);
    await image.enableJournal(options);
    if (!args.has('quiet')) context.out(madeText(name, image.journalStatus()));
  });
}

async function convertJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const options = journalOptions(args);
  if (!args.has('profile')) throw usageFailure('journal convert needs --profile');
  await withImage(name, args, async (image) => {
    if (image.journalStatus() === undefined) {
      throw new CommandFailure(`'${name}' has no journal; journal enable makes one`);
    }
    await image.convertJournal(options);
    if (!args.has('quiet')) context.out(madeText(name, image.journalStatus()));
  });
}

function journalOptions(args: ParsedArguments): JournalOptions {
  const profile = args.value('profile') ?? 'v1';
  if (profile !== 'v1' && profile !== 'draft-2013') {
    throw new CommandFailure(`--profile must be v1 or draft-2013, not '${profile}'`);
  }
  return { profile, sizeBytes: sizeOption(args, 'size'), blockBytes: sizeOption(args, 'block-size') };
}

function madeText(name: string, status: JournalStatus | undefined): string {
  if (status === undefined) return '';
  const { profile, lengthBytes, hostOffset } = status;
  const kind = profile === 'v1' ? 'Journal' : `Journal (${profile})`;
  return `${kind} of ${lengthBytes} bytes at offset ${hostOffset} in '${name}'\n`;
}

async function resizeJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const sizes = ['size', 'block-size'].filter((option) => args.has(option));
  if (sizes.length === 0) throw usageFailure('journal resize expects --size, --block-size or both');
  const sizeBytes = sizeOption(args, 'size');
  const blockBytes = sizeOption(args, 'block-size');
  await withImage(name, args, async (image) => {
    if (image.journalStatus() === undefined) throw new CommandFailure(`'${name}' has no journal`);
    await image.resizeJournal({
      ...(sizeBytes === undefined ? {} : { sizeBytes }),
      ...(blockBytes === undefined ? {} : { blockBytes }),
    });
    if (!args.has('quiet')) context.out(madeText(name, image.journalStatus()));
  });
}

async function disableJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  await withImage(name, args, async (image) => {
    if (image.journalStatus() === undefined) throw new CommandFailure(`'${name}' has no journal`);
    await image.disableJournal();
    if (!args.has('quiet')) context.out(`Journal taken out of '${name}'\n`);
  });
}

/** Opening for writing replays; closing leaves an image that every program can open. */
async function replayJournal(name: string, args: ParsedArguments, context: CommandContext): Promise<void> {
  const before = (await imageFacts(name)).qcow2?.journal;
  if (before === undefined) throw new CommandFailure(`'${name}' has no journal`);
  if (before.state !== 'dirty') {
    if (!args.has('quiet')) context.out(`Nothing to replay in '${name}'\n`);
    return;
  }
  await withImage(name, args, async () => undefined);
  if (!args.has('quiet')) context.out(`Replayed the journal of '${name}'\n`);
}

/**
 * Open an image for writing and close it. A dirty one is replayed, which may complete clusters with what the
 * backing file has there: so then the chain is opened too. A clean one needs no backing file for its journal. What has a
 * data file is not opened for writing without it.
 */
async function withImage(
  name: string,
  args: ParsedArguments,
  action: (image: Awaited<ReturnType<typeof openImage>>) => Promise<void>,
): Promise<void> {
  const follow = followPolicy(args);
  const plain = namedImage(args, name);
  const named = { ...plain, node: { ...plain.node, keySecret: args.value('key-secret') } };
  const opened = await openChain(named, { readOnly: false, follow, alone: await standsAlone(named) });
  let image: Awaited<ReturnType<typeof openImage>>;
  try {
    requireQcow2(opened.top, 'journal');
    image = await explainingOpen(name, () => openImage(opened.top.device, opened.opening));
  } catch (error) {
    await opened.close();
    throw error;
  }
  try {
    await action(image);
  } finally {
    await image.close();
    await opened.close();
  }
}

function sizeOption(args: ParsedArguments, name: string): number | undefined {
  const text = args.value(name);
  if (text === undefined) return undefined;
  const size = parseSize(text);
  if (typeof size === 'object' && size.bytes <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(size.bytes);
  throw new CommandFailure(`--${name}: '${text}' is not a size`);
}
