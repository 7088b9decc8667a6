/** What a subcommand is: data for help and for the parser of its arguments, and one function. */
import type { OptionSpec, ParsedArguments } from './arguments.ts';

/** The outside of a command: its name and its two streams. Tests give their own. */
export interface CommandContext {
  /** What the program was called as: `qcow2`, or `qemu-img` through a link of that name. */
  readonly programName: string;
  /** Write to standard output, as it stands. */
  out(text: string): void;
  /**
   * Wait until a reader of standard output has caught up, for a command that writes much: a slow pipe must not
   * fill the memory. Absent where nothing is ever kept back.
   */
  drained?(): Promise<void>;
  /** Standard output is a terminal: how many signs a line of it has, and whether colour is wanted. */
  readonly terminal?: { readonly columns: number; readonly colour: boolean } | undefined;
  /** Write to standard error, as it stands. */
  err(text: string): void;
  /** Absent where the command runs within another program, which can not be started once more. */
  readonly background?: Background;
  /** Aborted when the program is asked to end (SIGINT, SIGTERM). Only commands that wait look at it. */
  readonly stop: AbortSignal;
}

/** For commands that go on without the terminal that they were started from. */
export interface Background {
  /** This process is the one that went there; its parent waits for `ready`. */
  readonly isThere: boolean;
  /**
   * Start this program with the same words there, and wait until it is ready or has ended. What it says until then is said here.
   * @param verbose afterwards as well
   * @returns the exit code: 0 where it is ready
   */
  send(verbose: boolean, stop: AbortSignal): Promise<number>;
  /** There: let the parent go, which returns 0. Nothing where this process is not there. */
  ready(): void;
}

export interface Command {
  readonly options: readonly OptionSpec[];
  /** The operands, for the usage line: `FILE [SIZE]`. */
  readonly operands: string;
  /** The last word is an operand, also where it begins with a dash. */
  readonly lastWordIsOperand?: boolean;
  /** What else help says: a paragraph, examples. */
  readonly notes?: string;
  /**
   * @returns the exit code
   * @throws CommandFailure, and every Qcow2Error of the layers below
   */
  run(args: ParsedArguments, context: CommandContext): number | Promise<number>;
}

/** One line of the table of subcommands: what `--help` shows without loading the command. */
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  /** Not listed by `--help`. */
  readonly hidden?: boolean;
  load(): Promise<Command>;
}

export const helpOption: OptionSpec = { name: 'help', short: 'h', help: 'show this help' };
