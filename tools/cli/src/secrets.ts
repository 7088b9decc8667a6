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
import { type NamedObject, namedObjects } from './object-list.ts';

/** For the options of commands that take secrets. */
export const objectOption = {
  name: 'object',
  argument: 'OBJECT',
  help: 'secret,id=ID,file=PATH or data=TEXT[,format=raw|base64]: a passphrase; tls-creds-x509, tls-creds-psk, authz-simple, authz-list: TLS',
} as const;

const largestSecretBytes = 1024 * 1024;

export class Secrets {
  /** What was said of other things than secrets: credentials and authorizations of TLS, for those who use them. */
  readonly others: readonly NamedObject[];
  readonly #byId = new Map<string, Uint8Array>();

  /** @param objects what each `--object` said. @throws CommandFailure */
  constructor(objects: readonly string[]) {
    if (objects.length > 0) process.title = 'qcow2';
    const named = namedObjects(objects);
    for (const { type, id, properties } of named) {
      if (type !== 'secret') continue;
      this.#byId.set(id, decoded(contentOf(properties), properties.get('format') ?? 'raw'));
    }
    this.others = named.filter(({ type }) => type !== 'secret');
  }

  has(id: string): boolean {
    return this.#byId.has(id);
  }

  /** The bytes are kept here; they are not to be changed. @throws CommandFailure: "No secret with id '…'" */
  bytes(id: string, subject = ''): Uint8Array {
    const bytes = this.#byId.get(id);
    if (bytes !== undefined) return bytes;
    throw new CommandFailure(`${subject}No secret with id '${id}'`);
  }
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
