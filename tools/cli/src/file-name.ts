/**
 * File names as QEMU understands them: `file:` in front means a file, any other word before a colon names a
 * protocol, and a backing file's name is relative to the image that holds it.
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
  'nbds',
  'nfs',
  'rbd',
  'sheepdog',
  'ssh',
  'vxhs',
]);

/** Whether a name is that of a file on a server which is read over HTTP or HTTPS. */
export function isHttp(name: string): boolean {
  const protocol = protocolOf(name);
  return protocol === 'http' || protocol === 'https';
}

/** Whether a name is that of an export of an NBD server: `nbd:…`, `nbd://…`, `nbd+unix://…`. */
export function isNbd(name: string): boolean {
  return /^nbds?(\+tcp|\+unix)?:/.test(name);
}

/** Whether a name, `nbd://…` or `nbd+unix:…`, leads to the network, or to whatever listens there. */
export function isRemote(name: string): boolean {
  const scheme = protocolOf(name)?.split('+')[0];
  return scheme !== undefined && remoteProtocols.has(scheme);
}

/**
 * A backing file's name as seen by the one who named the image: put beside the image unless absolute.
 * @throws CommandFailure beside an export of an NBD server: exports have no directories
 */
export function besideImage(imagePath: string, name: string): string {
  if (protocolOf(name) !== undefined || posix.isAbsolute(name)) return name;
  if (isNbd(imagePath)) throw new CommandFailure('Cannot generate a base directory for NBD nodes');
  const folderEnd = imagePath.lastIndexOf('/');
  return folderEnd < 0 ? name : `${imagePath.slice(0, folderEnd + 1)}${name}`;
}
