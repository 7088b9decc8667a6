/** `completion`: a script that lets a shell complete commands, options and file names. */
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { commandTable } from '../command-table.ts';
import { completionScript, type Shell, shells } from '../completion.ts';
import { describeCommands } from '../described-command.ts';
import { usageFailure } from '../failures.ts';

export const completion: Command = {
  operands: shells.join('|'),
  options: [],
  notes: `Examples:
  source <(qcow2 completion bash)
  qcow2 completion zsh > "\${fpath[1]}/_qcow2"
  qcow2 completion fish | source`,
  run: runCompletion,
};

async function runCompletion(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name, ...extra] = args.operands;
  const shell = shells.find((known): known is Shell => known === name);
  if (shell === undefined || extra.length > 0) throw usageFailure(`Expecting one of ${shells.join(', ')}`);
  context.out(completionScript(shell, context.programName, await describeCommands(commandTable)));
  return 0;
}
