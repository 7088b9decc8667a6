/**
 * File names as QEMU understands them: `file:` in front means a file, any other word before a colon names a
 * protocol, and a backing file's name is relative to the image that holds it. Only local files are served.
 */
import { posix } from 'node:path';
import { CommandFailure } from './failures.ts';

/** The protocol that a name begins with: what stands before a colon that no slash precedes. */
export function protocolOf(name: string): string | undefined {
  return /^([^/:]*):/.exec(name)?.[1];
}

/**
 * The path of a local file.
 * @throws CommandFailure for a name that begins with a protocol other than `file:`
 */
export function localPath(name: string): string {
  const protocol = protocolOf(name);
  if (protocol === undefined) return name;
  if (protocol === 'file') return name.slice('file:'.length);
  throw new CommandFailure(
    qemuProtocols.has(protocol)
      ? `Protocol '${protocol}' is not supported`
      : `Unknown protocol '${protocol}'`,
  );
}

/** Protocols that QEMU knows, so that a name of one is not called unknown. */
const qemuProtocols = new Set([
  'blkdebug',
  'blkverify',
  'fat',
  'ftp',
  'ftps',
  'gluster',
  'host_device',
  'http',
  'https',
  'iscsi',
  'json',
  'nbd',
  'nfs',
  'null-aio',
  'null-co',
  'nvme',
  'rbd',
  'sheepdog',
  'ssh',
  'vxhs',
]);

const remoteProtocols = new Set([
  'ftp',
  'ftps',
  'gluster',
  'http',
  'https',
  'iscsi',
  'nbd',
  'nfs',
  'rbd',
  'sheepdog',
  'ssh',
  'vxhs',
]);

/** Whether a name, `nbd://…` or `nbd+unix:…`, leads to the network, or to whatever listens there. */
export function isRemote(name: string): boolean {
  const scheme = protocolOf(name)?.split('+')[0];
  return scheme !== undefined && remoteProtocols.has(scheme);
}

/** What a `json:` name may say, flat (`file.filename`) or nested: a local file, and perhaps of which format it is. */
interface JsonFile {
  readonly path: string;
  readonly format: string | undefined;
}

const jsonFormats = new Set(['raw', 'qcow2']);

/**
 * The local file that a `json:` name means. Its path is that of the caller, not of the image: so QEMU takes it.
 * @throws CommandFailure for one that is no JSON object, or means more than a file and its format
 */
export function localFileOfJson(name: string): JsonFile {
  const options = flatOptions(parseJson(name.slice('json:'.length)));
  const driver = options.get('driver');
  const isProtocol = driver === 'file';
  const fileKey = isProtocol ? 'filename' : 'file.filename';
  for (const [key, value] of options) {
    const known = key === 'driver' || key === fileKey || (key === 'file.driver' && !isProtocol);
    if (!known) throw new CommandFailure(`'${name}' is not followed: '${key}' is more than a local file`);
    if (typeof value !== 'string')
      throw new CommandFailure(`Invalid parameter type for '${key}', expected: string`);
  }
  const fileDriver = options.get('file.driver') ?? 'file';
  const isFormat = driver === undefined || isProtocol || jsonFormats.has(String(driver));
  if (!isFormat || fileDriver !== 'file') {
    throw new CommandFailure(`'${name}' is not followed: it means more than a local file`);
  }
  const path = options.get(fileKey);
  if (path !== undefined) return { path: String(path), format: isProtocol ? undefined : asText(driver) };
  const named = isProtocol || options.has('file.driver');
  const message = named
    ? "The 'file' block driver requires a file name"
    : 'A block device must be specified for "file"';
  throw new CommandFailure(message);
}

function asText(value: unknown): string | undefined {
  return value === undefined ? undefined : String(value);
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

/** One level of objects, as keys with a dot; what is deeper stays an object, and is refused by its key. */
function flatOptions(object: Record<string, unknown>): Map<string, unknown> {
  const flat = new Map<string, unknown>();
  for (const [key, value] of Object.entries(object)) {
    if (typeof value !== 'object' || value === null) flat.set(key, value);
    else for (const [inner, innerValue] of Object.entries(value)) flat.set(`${key}.${inner}`, innerValue);
  }
  return flat;
}

/** A backing file's name as seen by the one who named the image: put beside the image unless absolute. */
export function besideImage(imagePath: string, name: string): string {
  if (protocolOf(name) !== undefined || posix.isAbsolute(name)) return name;
  const folderEnd = imagePath.lastIndexOf('/');
  return folderEnd < 0 ? name : `${imagePath.slice(0, folderEnd + 1)}${name}`;
}
