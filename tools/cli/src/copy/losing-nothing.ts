/** What is said when a `commit` or a `rebase` does not come to its end: that it can be done again. */
import { Qcow2Error } from '@qcow2/spec';
import type { CommandContext } from '../command.ts';
import { CommandFailure, describeError } from '../failures.ts';

/** @throws CommandFailure with what ended the action, and that the image shows what it showed */
export async function losingNothing(
  name: string,
  { programName }: CommandContext,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    const why = error.code === 'ABORTED' ? 'interrupted' : describeError(error);
    throw new CommandFailure(`${why}\n${programName}: nothing is lost: '${name}' shows what it showed`, {
      cause: error,
    });
  }
}
