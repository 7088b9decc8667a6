/**
 * The socket that a server is watched through (ADR 33): each newline of a client's is answered with one line of JSON. Nothing else can be
 * asked for, and nothing changed. The socket is the owner's alone from its first moment on: counters tell what a guest does.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { CommandFailure } from '../failures.ts';
import type { WatchSample } from './sample.ts';

/** Enough for a person and a few programs. */
const mostWatchers = 16;
const newline = 0x0a;
const ownerOnly = 0o177;

export interface WatchSocket {
  close(): void;
}

/** @throws CommandFailure where it can not be listened on, and where another server is watched there */
export async function openWatchSocket(path: string, sample: () => WatchSample): Promise<WatchSocket> {
  if (await isStale(path)) unlinkSync(path);
  const watchers = new Set<Socket>();
  const server = createServer((socket) => {
    watchers.add(socket);
    socket.once('close', () => watchers.delete(socket));
    socket.on('error', () => {}); // one who went away
    socket.on('data', (piece: Buffer) => {
      if (piece.some((byte) => byte !== newline)) {
        socket.destroy();
        return;
      }
      // However many were asked for at once, they would be the same.
      if (!socket.write(`${JSON.stringify(sample())}\n`)) {
        socket.pause();
        socket.once('drain', () => socket.resume());
      }
    });
  });
  server.maxConnections = mostWatchers;
  await listen(server, path);
  return {
    close: () => {
      server.close();
      for (const socket of watchers) socket.destroy();
    },
  };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      reject(new CommandFailure(`can not be watched at '${path}': ${cause.message}`, { cause }));
    });
    // The socket is bound before `listen` returns, and takes its permissions then.
    const mask = process.umask(ownerOnly);
    try {
      server.listen({ path }, resolve);
    } finally {
      process.umask(mask);
    }
  });
}

/** A socket file that a server left behind which was killed. */
function isStale(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return Promise.resolve(false);
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}
