/** `manual`: the man page, as roff. */
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { commandTable } from '../command-table.ts';
import { describeCommands } from '../described-command.ts';
import { usageFailure } from '../failures.ts';
import { manualPage } from '../manual.ts';

export const manual: Command = {
  operands: '',
  options: [],
  notes: `Example:
  qcow2 manual | man -l -`,
  run: runManual,
};

async function runManual(args: ParsedArguments, context: CommandContext): Promise<number> {
  if (args.operands.length > 0) throw usageFailure('Expecting no arguments');
  context.out(manualPage(context.programName, await describeCommands(commandTable)));
  return 0;
}
