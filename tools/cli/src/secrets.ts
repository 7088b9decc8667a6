/**
 * `--object secret,id=ID,…`: passphrases by name, as QEMU's programs take them. What is said about a wrong one never repeats a
 * value of it, nor what may be the rest of a value whose comma was not doubled.
 *
 * A passphrase among the arguments is visible to everybody on the machine while the program starts, and is taken off the list of
 * processes when it is read; `file=` shows nothing.
 */

import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { CommandFailure } from './failures.ts';
import { elementsOf } from './option-list.ts';

/** For the options of commands that take secrets. */
export const objectOption = {
  name: 'object',
  argument: 'OBJECT',
  help: 'secret,id=ID,file=PATH or data=TEXT[,format=raw|base64]: a passphrase',
} as const;

const known = new Set(['qom-type', 'id', 'data', 'file', 'format']);
const largestSecretBytes = 1024 * 1024;

export class Secrets {
  readonly #byId = new Map<string, Uint8Array>();

  /** @param objects what each `--object` said. @throws CommandFailure */
  constructor(objects: readonly string[]) {
    if (objects.length > 0) process.title = 'qcow2';
    for (const object of objects) {
      const { id, bytes } = parseSecret(object);
      if (this.#byId.has(id)) {
        throw new CommandFailure(`attempt to add duplicate property '${id}' to object (type 'container')`);
      }
      this.#byId.set(id, bytes);
    }
  }

  /** The bytes are kept here; they are not to be changed. @throws CommandFailure: "No secret with id '…'" */
  bytes(id: string, subject = ''): Uint8Array {
    const bytes = this.#byId.get(id);
    if (bytes !== undefined) return bytes;
    throw new CommandFailure(`${subject}No secret with id '${id}'`);
  }
}

function parseSecret(object: string): { id: string; bytes: Uint8Array } {
  const elements = elementsOf(object);
  const values = new Map<string, string>();
  const [first] = elements;
  if (first?.isShort === true) values.set('qom-type', object.split(',')[0] ?? '');
  for (const { name, text, isShort } of first?.isShort === true ? elements.slice(1) : elements) {
    if (isShort || !known.has(name)) {
      throw new CommandFailure('--object has a parameter that is not known; a comma in a value is doubled');
    }
    values.set(name, text);
  }
  const type = values.get('qom-type');
  if (type !== 'secret') {
    // Not repeated: it may be a secret in the wrong place.
    throw new CommandFailure("Parameter 'qom-type' does not accept this value: there are secrets only");
  }
  const id = values.get('id');
  if (id === undefined) throw new CommandFailure("Parameter 'id' is missing");
  if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) {
    throw new CommandFailure(
      "Parameter 'id' expects an identifier\n" +
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    );
  }
  return { id, bytes: decoded(contentOf(values), values.get('format') ?? 'raw') };
}

function contentOf(values: ReadonlyMap<string, string>): Buffer {
  const data = values.get('data');
  const file = values.get('file');
  if (data !== undefined && file !== undefined) {
    throw new CommandFailure("'file' and 'data' are mutually exclusive");
  }
  if (data !== undefined) return Buffer.from(data);
  if (file === undefined) throw new CommandFailure("Either 'file' or 'data' must be provided");
  try {
    const bytes = readFileSync(file);
    if (bytes.length <= largestSecretBytes) return bytes;
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unreadable';
    throw new CommandFailure(`Unable to read ${file}: ${reason}`, { cause });
  }
  throw new CommandFailure(`Unable to read ${file}: more than ${largestSecretBytes} bytes`);
}

function decoded(bytes: Buffer, format: string): Uint8Array {
  if (format === 'raw') {
    if (isUtf8(bytes)) return bytes;
    throw new CommandFailure('Data from secret is not valid UTF-8');
  }
  if (format !== 'base64') throw new CommandFailure("Parameter 'format' does not accept this value");
  const text = bytes.toString('latin1').trim();
  if (!/^[A-Za-z0-9+/\s]*={0,2}$/.test(text)) {
    throw new CommandFailure('Base64 data contains invalid characters');
  }
  return Buffer.from(text, 'base64');
}
