/** Sizes as arguments of options, refused in qemu-img's words. */
import type { CommandContext } from './command.ts';
import { CommandFailure } from './failures.ts';
import { parseSize } from './sizes.ts';

const largest = 2n ** 63n - 1n;

/** @param subject what the size is of, as messages name it: "start offset". @throws CommandFailure */
export function sizeArgument(text: string, subject: string, context: CommandContext): number {
  const size = parseSize(text);
  if (size === 'invalid') {
    throw new CommandFailure(
      `Invalid ${subject} specified. You may use k, M, G, T, P or E suffixes for\n` +
        `${context.programName}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
    );
  }
  if (size === 'too large' || size.bytes > largest) {
    throw new CommandFailure(`Invalid ${subject} specified. Must be between 0 and ${largest}.`);
  }
  // More than a number can say is more than any disk has.
  return Math.min(Number(size.bytes), Number.MAX_SAFE_INTEGER);
}
