import type { OptionSpec, ParsedArguments } from './arguments.ts';
import { CommandFailure } from './failures.ts';

export const outputOption: OptionSpec = {
  name: 'output',
  argument: 'human|json',
  help: 'for people (default) or for programs',
};

/** @throws CommandFailure for anything but human and json */
export function outputFormat(args: ParsedArguments): 'human' | 'json' {
  const value = args.value('output') ?? 'human';
  if (value === 'human' || value === 'json') return value;
  throw new CommandFailure('--output must be used with human or json as argument.');
}
