/** Listening on an address: what node:net leaves open, a stale socket file above all. */
import { existsSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { type ErrorContext, type Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import type { NbdAddress } from './uri.ts';

/**
 * Bind `server` and return where it listens; port 0 asks the system for a free port.
 * A socket file that nobody serves any more (its server was killed) is replaced.
 * @throws StorageError IN_USE, ACCESS_DENIED, NOT_FOUND; StateError INVALID_ARGUMENT
 */
export async function listenOn(server: Server, address: NbdAddress): Promise<NbdAddress> {
  try {
    return await bind(server, address);
  } catch (error) {
    if (!('path' in address) || codeOf(error) !== 'EADDRINUSE' || !(await isStale(address.path))) {
      throw listenError(error, address);
    }
  }
  unlinkSync(address.path);
  try {
    return await bind(server, address);
  } catch (error) {
    throw listenError(error, address);
  }
}

function bind(server: Server, wanted: NbdAddress): Promise<NbdAddress> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(wanted, () => {
      server.off('error', reject);
      const bound = server.address();
      if (bound === null || typeof bound === 'string') resolve(wanted);
      else resolve({ host: bound.address, port: bound.port });
    });
  });
}

/** A socket file at which no one answers. */
function isStale(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return Promise.resolve(false);
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error) => resolve(codeOf(error) === 'ECONNREFUSED'));
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

function listenError(error: unknown, address: NbdAddress): Qcow2Error {
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`;
  const context: ErrorContext = { path: where };
  const message = `can not listen on ${where}`;
  switch (codeOf(error)) {
    case 'EADDRINUSE':
      return new StorageError('IN_USE', message, context, error);
    case 'EACCES': // which libuv also says for a folder that is not there
      return 'path' in address && !existsSync(dirname(address.path))
        ? new StorageError('NOT_FOUND', message, context, error)
        : new StorageError('ACCESS_DENIED', message, context, error);
    case 'EPERM':
      return new StorageError('ACCESS_DENIED', message, context, error);
    case 'EINVAL':
    case 'ENAMETOOLONG':
    case 'ERR_SOCKET_BAD_PORT':
      return new StateError('INVALID_ARGUMENT', message, context, error);
    default:
      return new StorageError('NOT_FOUND', message, context, error);
  }
}
