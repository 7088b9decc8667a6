/**
 * The program around the subcommands: which one is meant, its arguments, its exit code, and what is said
 * when it fails. Nothing here ends the process: `main.ts` does.
 */
import { parseArguments } from './arguments.ts';
import { type CommandContext, type CommandEntry, helpOption } from './command.ts';
import { commandTable } from './command-table.ts';
import { CommandFailure, describeError, usageFailure } from './failures.ts';
import { commandHelp, programHelp } from './help.ts';
import { nearest } from './suggestion.ts';

/** The release of QEMU whose words and exit codes this command follows. */
const qemuVersion = '7.2';

/** @returns the exit code. Never throws: what went wrong is one line on `context.err`. */
export async function runProgram(
  words: readonly string[],
  context: CommandContext,
  version: string,
): Promise<number> {
  try {
    return await dispatch(words, context, version);
  } catch (error) {
    return reportFailure(error, context);
  }
}

async function dispatch(words: readonly string[], context: CommandContext, version: string): Promise<number> {
  const [first, ...rest] = words;
  if (first === undefined) throw usageFailure('Not enough arguments');
  if (first === '--help' || first === '-h') {
    context.out(programHelp(context.programName, commandTable));
    return 0;
  }
  if (first === '--version' || first === '-V') {
    context.out(versionText(context.programName, version));
    return 0;
  }
  if (first.startsWith('-')) throw usageFailure(`unrecognized option '${first}'`);
  const entry = findCommand(first, context.programName);
  const command = await entry.load();
  const isSplit = command.lastWordIsOperand === true && rest[0] !== '--help' && rest[0] !== '-h';
  if (isSplit && rest.length < 2) throw usageFailure('Not enough arguments');
  const [optionWords, tail] = isSplit ? [rest.slice(0, -1), rest.slice(-1)] : [rest, []];
  const args = parseArguments([...command.options, helpOption], optionWords, tail);
  if (args.has('help')) {
    context.out(commandHelp(context.programName, entry, command));
    return 0;
  }
  return await command.run(args, context);
}

/** Called as qemu-img, it says what qemu-img says and no more. */
function findCommand(name: string, programName: string): CommandEntry {
  const entry = commandTable.find((candidate) => candidate.name === name);
  if (entry !== undefined) return entry;
  const shown = commandTable.filter((entry) => entry.hidden !== true).map((entry) => entry.name);
  const meant = programName === 'qemu-img' ? undefined : nearest(name, shown);
  throw usageFailure(`Command not found: ${name}${meant === undefined ? '' : `; did you mean '${meant}'?`}`);
}

/** Called as qemu-img, the first line is of the form that scripts cut the version out of. */
function versionText(programName: string, version: string): string {
  return programName === 'qemu-img'
    ? `qemu-img version ${qemuVersion}.0 (qcow2 ${version})\n`
    : `qcow2 version ${version} (follows qemu-img ${qemuVersion})\n`;
}

function reportFailure(error: unknown, context: CommandContext): number {
  context.err(`${context.programName}: ${describeError(error)}\n`);
  if (error instanceof CommandFailure && error.hint) {
    context.err(`Try '${context.programName} --help' for more information\n`);
  }
  if (process.env.QCOW2_DEBUG === '1' && error instanceof Error) context.err(debugText(error));
  return error instanceof CommandFailure ? error.exitCode : 1;
}

/** The stack, and those of the errors below. */
function debugText(error: Error): string {
  const below = error.cause instanceof Error ? `caused by: ${debugText(error.cause)}` : '';
  return `${error.stack ?? error.message}\n${below}`;
}
