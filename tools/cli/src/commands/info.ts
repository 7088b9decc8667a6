/** `info`: what an image is, from its metadata alone. Works for images that can not be opened for data. */
import { nativeSupport } from '@qcow2/fs';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import {
  type FollowedName,
  type FollowPolicy,
  followName,
  followOptions,
  followPolicy,
  guessedFailure,
} from '../follow.ts';
import type { BackingFacts, ImageFacts } from '../image-facts.ts';
import { imageJson, imageText } from '../image-report.ts';
import { jsonText } from '../json-text.ts';
import { imageNameOptions, type NamedImage, namedImage } from '../named-image.ts';
import { fileId, imageFacts, namedFacts } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { systemText } from '../system-report.ts';

export const info: Command = {
  operands: 'FILE',
  options: [
    {
      name: 'format',
      short: 'f',
      argument: 'FMT',
      help: 'qcow2, raw, vdi, vpc, vmdk, vhdx; found by itself if not given',
    },
    outputOption,
    { name: 'backing-chain', help: 'also the backing file, its backing file, and so on' },
    ...followOptions,
    { name: 'force-share', short: 'U', help: 'also if somebody may be writing to it' },
    { name: 'verbose', short: 'v', help: 'also what this system lets the program do with files' },
    ...imageNameOptions,
  ],
  run: runInfo,
};

async function runInfo(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const choice = {
    whole: args.has('backing-chain'),
    shared: args.has('force-share'),
    follow: followPolicy(args),
  };
  // Nothing that is shown is encrypted: no secret is asked for.
  const chain = await chainFacts(namedImage(args, name), choice);
  if (output === 'human') {
    context.out(chain.map(imageText).join('\n'));
    if (args.has('verbose')) context.out(`\n${systemText(nativeSupport().missing)}`);
  } else {
    const reports = chain.map(imageJson);
    const [first] = reports;
    context.out(`${jsonText(args.has('backing-chain') || first === undefined ? reports : first)}\n`);
  }
  return 0;
}

/** No file but those of the chain is opened, and a data file is none of them. */
async function chainFacts(
  named: NamedImage,
  choice: { readonly whole: boolean; readonly shared: boolean; readonly follow: FollowPolicy },
): Promise<ImageFacts[]> {
  const chain: ImageFacts[] = [];
  const seen = new Set<string>();
  let next: (FollowedName & { readonly guessed?: boolean }) | undefined;
  do {
    const { shared, follow } = choice;
    const facts: ImageFacts =
      next === undefined
        ? await namedFacts(named, { shared, follow })
        : await imageFacts(next.path, { format: next.format, isNamed: true, shared, follow });
    const real = fileId(facts.path);
    if (seen.has(real)) throw new CommandFailure(`Backing file '${facts.path}' creates an infinite loop.`);
    seen.add(real);
    chain.push(facts);
    const backing: BackingFacts = facts.qcow2 ?? facts.vmdk ?? {};
    if (!choice.whole || backing.backingFile === undefined) break;
    if (next?.guessed === true) throw guessedFailure(next.path, backing.backingFile);
    next = nextOf(facts.path, backing, backing.backingFile, follow);
  } while (next !== undefined);
  return chain;
}

function nextOf(path: string, { backingFormat }: BackingFacts, name: string, follow: FollowPolicy) {
  const followed = followName({ role: 'backing', name }, path, follow);
  const format = backingFormat ?? followed.format;
  return { ...followed, format, guessed: format === undefined };
}
