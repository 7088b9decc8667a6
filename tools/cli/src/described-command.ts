/** Every command with all that its data says, loaded: for texts about all of them at once. */
import type { OptionSpec } from './arguments.ts';
import { type CommandEntry, helpOption } from './command.ts';

export interface DescribedCommand {
  readonly name: string;
  readonly summary: string;
  readonly operands: string;
  readonly notes: string | undefined;
  /** Words that the first operand is one of. */
  readonly actions: readonly string[];
  /** Without those that are refused. */
  readonly options: readonly OptionSpec[];
}

/** Those that help lists, in its order. */
export async function describeCommands(entries: readonly CommandEntry[]): Promise<DescribedCommand[]> {
  const shown = entries.filter((entry) => entry.hidden !== true);
  return await Promise.all(
    shown.map(async (entry) => {
      const { operands, notes, options } = await entry.load();
      const actions = actionsOf(operands);
      const served = [...options, helpOption].filter((option) => option.refused === undefined);
      return { name: entry.name, summary: entry.summary, operands, notes, actions, options: served };
    }),
  );
}

/** A usage line that begins with `info|dump|…` has words to choose from. */
function actionsOf(operands: string): string[] {
  const [first = ''] = operands.split(' ');
  return /^[a-z]+(\|[a-z]+)+$/.test(first) ? first.split('|') : [];
}
