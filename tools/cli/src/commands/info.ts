/** `info`: what an image is, from its metadata alone. Works for images that can not be opened for data. */
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import type { ImageFacts } from '../image-facts.ts';
import { imageJson, imageText } from '../image-report.ts';
import { jsonText } from '../json-text.ts';
import { imageFacts } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';

export const info: Command = {
  operands: 'FILE',
  options: [
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2 or raw; found by itself if not given' },
    outputOption,
    { name: 'backing-chain', help: 'also the backing file, its backing file, and so on' },
    { name: 'force-share', short: 'U', help: 'also if somebody may be writing to it' },
    { name: 'object', argument: 'OBJECT', refused: 'there are no secrets yet' },
    { name: 'image-opts', refused: 'not yet' },
  ],
  run: runInfo,
};

async function runInfo(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const choice = { whole: args.has('backing-chain'), shared: args.has('force-share') };
  const chain = await chainFacts(name, args.value('format'), choice);
  if (output === 'human') {
    context.out(chain.map(imageText).join('\n'));
  } else {
    const reports = chain.map(imageJson);
    const [first] = reports;
    context.out(`${jsonText(args.has('backing-chain') || first === undefined ? reports : first)}\n`);
  }
  return 0;
}

async function chainFacts(
  name: string,
  format: string | undefined,
  choice: { readonly whole: boolean; readonly shared: boolean },
): Promise<ImageFacts[]> {
  const chain: ImageFacts[] = [];
  const seen = new Set<string>();
  let next: { name: string; format: string | undefined } | undefined = { name, format };
  while (next !== undefined) {
    if (seen.has(next.name)) {
      throw new CommandFailure(`Backing file '${next.name}' creates an infinite loop.`);
    }
    seen.add(next.name);
    const facts: ImageFacts = await imageFacts(next.name, { format: next.format, shared: choice.shared });
    chain.push(facts);
    const backing = choice.whole ? facts.qcow2?.fullBackingFile : undefined;
    next = backing === undefined ? undefined : { name: backing, format: facts.qcow2?.backingFormat };
  }
  return chain;
}
