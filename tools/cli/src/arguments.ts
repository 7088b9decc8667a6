/**
 * Arguments after the habits of getopt_long, which qemu-img and qemu-nbd have and node:util's parseArgs does
 * not: options may follow operands, `-qf raw` and `-fraw` bundle, long names may be shortened to any prefix
 * that is unique, `--` ends the options, an option's argument may begin with a dash.
 *
 * Options are data: a command lists the ones that it has, and also the ones that qemu-img has and it does
 * not, so that those are refused by name and never ignored.
 */
import { CommandFailure, usageFailure } from './failures.ts';

export interface OptionSpec {
  /** Long name, without dashes; also the key under which values are found. */
  readonly name: string;
  /** One letter, without the dash. */
  readonly short?: string;
  /** Name of the argument in help texts, e.g. FILE. Absent: the option takes none. */
  readonly argument?: string;
  /** Words that may stand behind `=`, though the option takes no argument: `--name=word`. */
  readonly words?: readonly string[];
  readonly help?: string;
  /** Known to qemu, not served here: why. Using it is an error that says so. */
  readonly refused?: string;
}

/** What the arguments said: options with their arguments in the order given, and the operands. */
export class ParsedArguments {
  readonly operands: readonly string[];
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(values: ReadonlyMap<string, readonly string[]>, operands: readonly string[]) {
    this.#values = values;
    this.operands = operands;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The names of the options that were given, each where it came first. */
  get names(): readonly string[] {
    return [...this.#values.keys()];
  }

  /** The last argument given to the option (later ones win), if any. */
  value(name: string): string | undefined {
    return this.#values.get(name)?.at(-1);
  }

  /** Every argument given to the option, in order. */
  values(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }
}

/**
 * @param words what follows the command's name
 * @param tail operands that are no options, whatever they look like
 * @throws CommandFailure for an option that is unknown, refused, or lacks its argument
 */
export function parseArguments(
  options: readonly OptionSpec[],
  words: readonly string[],
  tail: readonly string[] = [],
): ParsedArguments {
  const values = new Map<string, string[]>();
  const operands: string[] = [];
  const rest = [...words];

  const record = (option: OptionSpec, argument: string): void => {
    if (option.refused !== undefined) {
      throw new CommandFailure(`option '${shownName(option)}' is not supported: ${option.refused}`);
    }
    const earlier = values.get(option.name);
    if (earlier === undefined) values.set(option.name, [argument]);
    else earlier.push(argument);
  };
  const argumentOf = (word: string): string => {
    const argument = rest.shift();
    if (argument === undefined) throw usageFailure(`missing argument for option '${word}'`);
    return argument;
  };

  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '--') {
      operands.push(...rest);
      break;
    }
    if (word.startsWith('--')) parseLong(options, word, record, argumentOf);
    else if (word.startsWith('-') && word !== '-') parseShort(options, word, record, argumentOf);
    else operands.push(word);
  }
  return new ParsedArguments(values, [...operands, ...tail]);
}

type Record = (option: OptionSpec, argument: string) => void;

function parseLong(
  options: readonly OptionSpec[],
  word: string,
  record: Record,
  argumentOf: (word: string) => string,
): void {
  const equals = word.indexOf('=');
  const typed = word.slice(2, equals < 0 ? undefined : equals);
  const option = findLong(options, typed);
  if (option === undefined) throw unrecognized(word);
  const value = equals < 0 ? '' : word.slice(equals + 1);
  if (option.argument === undefined && equals >= 0 && option.words?.includes(value) !== true)
    throw unrecognized(word);
  if (option.argument === undefined) record(option, value);
  else record(option, equals >= 0 ? value : argumentOf(word));
}

function findLong(options: readonly OptionSpec[], typed: string): OptionSpec | undefined {
  const exact = options.find((option) => option.name === typed);
  if (exact !== undefined) return exact;
  const candidates = options.filter((option) => option.name.startsWith(typed));
  return candidates.length === 1 ? candidates[0] : undefined;
}

function parseShort(
  options: readonly OptionSpec[],
  word: string,
  record: Record,
  argumentOf: (word: string) => string,
): void {
  for (let at = 1; at < word.length; at++) {
    const option = options.find((candidate) => candidate.short === word[at]);
    if (option === undefined) throw unrecognized(word);
    if (option.argument === undefined) {
      record(option, '');
      continue;
    }
    const attached = word.slice(at + 1);
    record(option, attached === '' ? argumentOf(word) : attached);
    return;
  }
}

function unrecognized(word: string): CommandFailure {
  return usageFailure(`unrecognized option '${word}'`);
}

function shownName(option: OptionSpec): string {
  return option.short === undefined ? `--${option.name}` : `-${option.short}`;
}
