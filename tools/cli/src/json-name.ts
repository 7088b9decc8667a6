/**
 * `json:` names: QEMU's options of an image as a JSON object, flat (`file.filename`) or nested. An argument may say whatever `--image-opts`
 * may. A name that stands in an image may say which local file is meant, of which format it is, and which secret of the
 * caller's opens it and what is below it: no more, since it is not an image's to say how it is opened.
 */
import { CommandFailure } from './failures.ts';
import { isForeign } from './image-format.ts';
import type { ImageNode } from './image-options.ts';
import type { OptionElement } from './option-list.ts';

export function isJsonName(name: string): boolean {
  return name.startsWith('json:');
}

/** The options of a `json:` name, with dots in their names. `null` is the empty text. @throws CommandFailure */
export function jsonElements(name: string): OptionElement[] {
  return [...flatOptions(parseJson(name.slice('json:'.length)))].map(([key, value]) => ({
    name: key,
    text: textOf(key, value),
    isShort: false,
  }));
}

/** What a `json:` name in an image says. */
interface JsonFile {
  readonly path: string;
  readonly format: string | undefined;
  /** How it is opened, and what is below it. */
  readonly node: ImageNode | undefined;
}

const isServed = (driver: unknown): boolean =>
  driver === 'raw' || driver === 'qcow2' || (typeof driver === 'string' && isForeign(driver));
const secretKey = /^(backing\.)*encrypt\.(format|key-secret)$/;

/**
 * The local file that a `json:` name in an image means. Its path is that of the caller, not of the image: so QEMU takes it.
 * @param parseNode makes a node of what is not about the file
 * @throws CommandFailure for one that is no JSON object, or means more than a file, its format and its secrets
 */
export function localFileOfJson(
  name: string,
  parseNode: (elements: readonly OptionElement[]) => ImageNode,
): JsonFile {
  const options = flatOptions(parseJson(name.slice('json:'.length)));
  const driver = options.get('driver');
  const isProtocol = driver === 'file';
  const fileKey = isProtocol ? 'filename' : 'file.filename';
  const secrets: OptionElement[] = [];
  for (const [key, value] of options) {
    const isSecret = secretKey.test(key) && !isProtocol;
    const known = isSecret || key === 'driver' || key === fileKey || (key === 'file.driver' && !isProtocol);
    if (!known) throw new CommandFailure(`'${name}' is not followed: '${key}' is more than a local file`);
    if (typeof value !== 'string')
      throw new CommandFailure(`Invalid parameter type for '${key}', expected: string`);
    if (isSecret) secrets.push({ name: key, text: value, isShort: false });
  }
  const fileDriver = options.get('file.driver') ?? 'file';
  const isFormat = driver === undefined || isProtocol || isServed(driver);
  if (!isFormat || fileDriver !== 'file') {
    throw new CommandFailure(`'${name}' is not followed: it means more than a local file`);
  }
  const path = options.get(fileKey);
  if (path !== undefined) {
    const format = isProtocol || driver === undefined ? undefined : String(driver);
    return { path: String(path), format, node: secrets.length === 0 ? undefined : parseNode(secrets) };
  }
  const named = isProtocol || options.has('file.driver');
  const message = named
    ? "The 'file' block driver requires a file name"
    : 'A block device must be specified for "file"';
  throw new CommandFailure(message);
}

function parseJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CommandFailure(`Could not parse the JSON options: ${(error as SyntaxError).message}`);
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  throw new CommandFailure('Invalid JSON object given');
}

/** The deepest nesting that is looked into: a chain whose every image has options of its own is rarely as deep. */
const deepest = 64;

/** Objects in objects, as keys with dots. */
function flatOptions(object: Record<string, unknown>, prefix = '', depth = 0): Map<string, unknown> {
  if (depth > deepest) throw new CommandFailure(`'${prefix}' is nested too deeply`);
  const flat = new Map<string, unknown>();
  for (const [key, value] of Object.entries(object)) {
    const name = `${prefix}${key}`;
    if (typeof value !== 'object' || value === null) flat.set(name, value);
    else for (const [inner, text] of flatOptions({ ...value }, `${name}.`, depth + 1)) flat.set(inner, text);
  }
  return flat;
}

function textOf(key: string, value: unknown): string {
  if (value === null && (key === 'backing' || key.endsWith('.backing'))) return '';
  if (typeof value === 'string' || typeof value === 'number') return String(value);
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  throw new CommandFailure(`Invalid parameter type for '${key}', expected: string`);
}
