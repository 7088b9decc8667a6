/**
 * QEMU's option lists, as `-o` takes them: `name=value,name=value`, a comma in a value doubled, a bare name
 * for "on", a bare name after "no" for "off". Which names there are and what their values mean is data.
 */
import { CommandFailure } from './failures.ts';
import { parseSize } from './sizes.ts';

export type OptionType = 'size' | 'number' | 'bool' | 'string';

export interface ListedOption {
  readonly name: string;
  readonly type: OptionType;
  readonly help: string;
  /** Shown, and used, where nothing is given. */
  readonly defaultText?: string;
  /** Known to QEMU, not served here: why. A value other than `refusedUnless` is an error. */
  readonly refused?: string;
  readonly refusedUnless?: readonly string[];
}

/** One value: the text as given (it is echoed), and what it means. */
export interface OptionValue {
  readonly text: string;
  readonly value: bigint | boolean | string;
}

export type OptionValues = Map<string, OptionValue>;

/** @throws CommandFailure for a list that is empty or begins or ends with a comma: two -o would run together */
export function joinLists(lists: readonly string[]): string {
  for (const list of lists) {
    const endCommas = /,*$/.exec(list)?.[0].length ?? 0;
    if (list === '' || list.startsWith(',') || endCommas % 2 === 1) {
      throw new CommandFailure(`Invalid option list: ${list}`);
    }
  }
  return lists.join(',');
}

/** True where one of the list's elements asks for the list of options. */
export function asksForHelp(list: string): boolean {
  return splitList(list).some((element) => element === 'help' || element === '?');
}

/**
 * @param subject what messages begin with: the file that is to be made
 * @throws CommandFailure for an unknown name, or a value that is not of the option's type
 */
export function parseOptionList(
  options: readonly ListedOption[],
  list: string,
  subject: string,
): OptionValues {
  return list === '' ? new Map() : parseElements(options, elementsOf(list), subject);
}

/** As `parseOptionList`, of elements. */
export function parseElements(
  options: readonly ListedOption[],
  elements: readonly OptionElement[],
  subject: string,
): OptionValues {
  const values: OptionValues = new Map();
  for (const { name, text } of elements) {
    const option = options.find((candidate) => candidate.name === name);
    if (option === undefined) throw new CommandFailure(`${subject}: Invalid parameter '${name}'`);
    values.set(name, { text, value: parseValue(option, text, subject) });
  }
  return values;
}

/** A comma inside a value, doubled again for echoing. */
export function escapeCommas(text: string): string {
  return text.replaceAll(',', ',,');
}

/** One element of a list. */
export interface OptionElement {
  readonly name: string;
  readonly text: string;
  /** It was given without a value. */
  readonly isShort: boolean;
}

/** The elements as given; one without a value says "on", or "off" where it begins with "no". */
export function elementsOf(list: string): readonly OptionElement[] {
  return splitList(list).map((element) => ({ ...splitElement(element), isShort: !element.includes('=') }));
}

/** The elements, each with its doubled commas made single. */
function splitList(list: string): string[] {
  const elements: string[] = [];
  let element = '';
  for (let at = 0; at < list.length; at++) {
    if (list[at] !== ',') {
      element += list[at];
    } else if (list[at + 1] === ',') {
      element += ',';
      at++;
    } else {
      elements.push(element);
      element = '';
    }
  }
  elements.push(element);
  return elements;
}

function splitElement(element: string): { name: string; text: string } {
  const equals = element.indexOf('=');
  if (equals >= 0) return { name: element.slice(0, equals), text: element.slice(equals + 1) };
  return element.startsWith('no') ? { name: element.slice(2), text: 'off' } : { name: element, text: 'on' };
}

function parseValue(option: ListedOption, text: string, subject: string): bigint | boolean | string {
  switch (option.type) {
    case 'string':
      return text;
    case 'bool':
      return parseBoolean(option.name, text, subject);
    case 'number':
      return parseNumber(option.name, text, subject);
    case 'size': {
      const size = parseSize(text);
      if (size === 'too large') throw tooLarge(option.name, text, subject);
      if (size !== 'invalid') return size.bytes;
      throw new CommandFailure(
        `${subject}: Parameter '${option.name}' expects a non-negative number below 2^64\n` +
          'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
          'and exabytes, respectively.',
      );
    }
  }
}

function parseBoolean(name: string, text: string, subject: string): boolean {
  if (['on', 'yes', 'true', 'y'].includes(text)) return true;
  if (['off', 'no', 'false', 'n'].includes(text)) return false;
  throw new CommandFailure(`${subject}: Parameter '${name}' expects 'on' or 'off'`);
}

/** Decimal, 0x or leading-0 octal, as strtoull reads them; a sign wraps around below 2^64. */
function parseNumber(name: string, text: string, subject: string): bigint {
  const match = /^\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)$/.exec(text);
  if (match === null) throw new CommandFailure(`${subject}: Parameter '${name}' expects a number`);
  const [, sign, digits = ''] = match;
  const magnitude = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  if (magnitude >= 2n ** 64n) throw tooLarge(name, text, subject);
  return sign === '-' ? BigInt.asUintN(64, -magnitude) : magnitude;
}

function tooLarge(name: string, text: string, subject: string): CommandFailure {
  return new CommandFailure(`${subject}: Value '${text}' is too large for parameter '${name}'`);
}
