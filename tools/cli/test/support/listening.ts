import { readFileSync } from 'node:fs';

/** Somebody listens on a unix socket. Its file is there a moment earlier; and to connect would take a place that a client wants. */
export function isListening(path: string): boolean {
  const sockets = readFileSync('/proc/net/unix', 'utf8').split('\n');
  // `… Flags Type St Inode Path`: the flag says that it accepts connections.
  return sockets.some((line) => line.endsWith(` ${path}`) && / 00010000 0001 /.test(line));
}
