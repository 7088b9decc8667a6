/**
 * Who is compared: our server in its modes, and qemu-nbd in its. Each makes an image in its own way, empty or
 * with every cluster written, and serves it on a unix socket.
 */
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  openSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BenchmarkFailure } from './failure.ts';
import { type FioLoad, runFio } from './fio.ts';
import { processTimeUs } from './process-time.ts';
import type { Workspace } from './workspace.ts';

export interface Contender {
  readonly name: string;
  /** Make an empty image. */
  create(workspace: Workspace, image: string, sizeBytes: number): Promise<void>;
  /** What an image that qemu-img filled needs before it is served. */
  adopt?(workspace: Workspace, image: string): Promise<void>;
  /** The command that serves it, and ends on SIGTERM with everything written. */
  server(image: string, socket: string): { command: string; args: string[] };
}

/** The command of this repository, as built. */
export const ownCommand = join(import.meta.dirname, '../../cli/qcow2');

export function ourContenders(command: string): { journalled: Contender; ordinary: Contender } {
  const server: Contender['server'] = (image, socket) => ({
    command,
    args: ['serve', '-t', '-k', socket, image],
  });
  return {
    journalled: {
      name: 'qcow2 serve, journal',
      create: async (workspace, image, sizeBytes) => {
        await workspace.run(command, [
          'create',
          '-q',
          '-f',
          'qcow2',
          '-o',
          'journal=on',
          image,
          `${sizeBytes}`,
        ]);
      },
      adopt: async (workspace, image) => {
        await workspace.run(command, ['journal', 'enable', image]);
      },
      server,
    },
    ordinary: {
      name: 'qcow2 serve, no journal',
      create: async (workspace, image, sizeBytes) => {
        await workspace.run(command, ['create', '-q', '-f', 'qcow2', image, `${sizeBytes}`]);
      },
      server,
    },
  };
}

function qemuContender(name: string, format: string, options: readonly string[] = []): Contender {
  return {
    name,
    create: async (workspace, image, sizeBytes) => {
      if (format === 'raw') {
        writeFileSync(image, '');
        truncateSync(image, sizeBytes);
      } else {
        await workspace.run('qemu-img', ['create', '-q', '-f', format, ...options, image, `${sizeBytes}`]);
      }
    },
    server: (image, socket) => ({ command: 'qemu-nbd', args: ['-t', '-f', format, '-k', socket, image] }),
  };
}

export const qemuNbd = {
  qcow2: qemuContender('qemu-nbd, qcow2', 'qcow2'),
  lazy: qemuContender('qemu-nbd, lazy refcounts', 'qcow2', ['-o', 'lazy_refcounts=on']),
  raw: qemuContender('qemu-nbd, raw sparse', 'raw'),
};

/** An image with random bytes in every cluster, made by qemu-img: what contenders get copies of. */
export async function filledImage(workspace: Workspace, sizeBytes: number): Promise<string> {
  const raw = workspace.path('random.raw');
  const image = workspace.path('filled.qcow2');
  await workspace.run('dd', [
    'if=/dev/urandom',
    `of=${raw}`,
    'bs=1M',
    `count=${sizeBytes / 2 ** 20}`,
    'status=none',
  ]);
  await workspace.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  await workspace.run('rm', [raw]);
  return image;
}

/**
 * A fresh copy, durable, so that its writing does not disturb what is measured next. All contenders get theirs in
 * this one way: how a file came into the page cache (in small pieces, or read ahead in large ones)
 * alone can change the cost of a write into it by a factor of five.
 */
export function freshCopy(from: string, to: string): void {
  copyFileSync(from, to);
  syncFile(to);
}

export function syncFile(path: string): void {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  closeSync(fd);
}

const startLimitMs = 15_000;

export interface Served {
  readonly socket: string;
  /** Processor time that the server has used so far, in microseconds. */
  processTimeUs(): number;
  /** Keep all its threads on these processors from now on, as taskset names them. */
  place(processors: string): Promise<void>;
  /** Close the image and wait for the server's end. */
  stop(): Promise<void>;
}

/** Start the contender's server, perhaps behind another program such as strace. */
export async function serveImage(
  workspace: Workspace,
  contender: Pick<Contender, 'name' | 'server'>,
  image: string,
  prefix: readonly string[] = [],
): Promise<Served> {
  const socket = workspace.path('sock');
  const { command, args } = contender.server(image, socket);
  const [first = command, ...rest] = [...prefix, command, ...args];
  const child = workspace.start(first, rest);
  const complaints: string[] = [];
  child.stderr?.setEncoding('utf8').on('data', (text: string) => complaints.push(text));
  let failed: unknown;
  child.once('error', (error) => {
    failed = error;
  });
  const deadline = Date.now() + startLimitMs;
  while (!existsSync(socket)) {
    if (failed !== undefined || child.exitCode !== null || Date.now() > deadline) {
      throw new BenchmarkFailure(`${contender.name} does not serve: ${complaints.join('').slice(-500)}`, {
        cause: failed,
      });
    }
    await sleep(5);
  }
  await sleep(20); // between the file's appearance and listen(2)
  return {
    socket,
    processTimeUs: () => processTimeUs(child.pid),
    place: async (processors) => {
      await workspace.run('taskset', ['-a', '-c', '-p', processors, `${child.pid}`]);
    },
    stop: () => workspace.end(child),
  };
}

/**
 * Servers of all contenders, each with a new image, after a warm-up that is not measured. All at once: a round is
 * then short, and what slows the machine down meets all of them.
 */
export async function serveAll(
  workspace: Workspace,
  contenders: readonly Contender[],
  make: (contender: Contender, image: string) => Promise<void>,
  warmUp: FioLoad,
): Promise<Map<Contender, Served>> {
  const servers = new Map<Contender, Served>();
  for (const contender of contenders) {
    const image = workspace.path('image');
    await make(contender, image);
    syncFile(image);
    const server = await serveImage(workspace, contender, image);
    servers.set(contender, server);
    await runFio(workspace, server.socket, warmUp);
  }
  return servers;
}
