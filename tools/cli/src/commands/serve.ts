/**
 * `serve`: an image over NBD, with qemu-nbd's options.
 *
 * The end: SIGTERM, SIGINT, or (without --persistent) the last client going. Requests in flight are answered,
 * then the image is closed: written back, its dirty bit cleared. Killed instead, a journalled image
 * recovers when it is opened next.
 */

import type { NbdMetadataContext } from '@qcow2/nbd';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { objectOption } from '../secrets.ts';
import type { JournalMode, ServedImage, ServedImageOptions } from '../served-image.ts';

export const serve: Command = {
  operands: 'FILE',
  options: [
    { name: 'socket', short: 'k', argument: 'PATH', help: 'listen on a unix socket' },
    { name: 'port', short: 'p', argument: 'PORT', help: 'TCP port (default 10809; 0: any that is free)' },
    { name: 'bind', short: 'b', argument: 'ADDRESS', help: 'TCP address (default 127.0.0.1)' },
    { name: 'read-only', short: 'r', help: 'refuse writes; the file is not touched' },
    { name: 'persistent', short: 't', help: 'go on when the last client has gone' },
    { name: 'shared', short: 'e', argument: 'N', help: 'clients at a time (default 1, 0: no limit)' },
    { name: 'export-name', short: 'x', argument: 'NAME', help: 'name of the export (default: empty)' },
    { name: 'description', short: 'D', argument: 'TEXT', help: 'what listings show beside the name' },
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2 or raw; found by itself if not given' },
    {
      name: 'journal',
      argument: 'on|off|auto',
      help: 'on: give the image a journal first; off: take it away first; auto (default): as it is',
    },
    {
      name: 'journal-idle',
      argument: 'SECONDS',
      help: 'write back and mark the image as clean after so long without requests (default 5; 0: never)',
    },
    ...followOptions,
    { name: 'verbose', short: 'v', help: 'say how to connect, who comes and goes, what fails' },
    { name: 'offset', short: 'o', argument: 'OFFSET', refused: 'not yet' },
    { name: 'allocation-depth', short: 'A', help: 'say in which image of the chain bytes stand' },
    { name: 'bitmap', short: 'B', argument: 'NAME', help: 'say what a bitmap says has changed' },
    { name: 'list', short: 'L', refused: 'this is a server only' },
    objectOption,
    { name: 'tls-creds', argument: 'ID', refused: 'there is no TLS yet' },
    { name: 'tls-authz', argument: 'ID', refused: 'there is no TLS yet' },
    { name: 'trace', short: 'T', argument: 'PATTERN', refused: 'there are no trace points' },
    { name: 'fork', refused: 'run it under a service manager, or with & in a shell' },
    { name: 'pid-file', argument: 'PATH', refused: 'not yet' },
    { name: 'selinux-label', argument: 'LABEL', refused: 'not yet' },
    { name: 'connect', short: 'c', argument: 'DEV', refused: 'use nbd-client' },
    { name: 'disconnect', short: 'd', argument: 'DEV', refused: 'use nbd-client' },
    { name: 'snapshot', short: 's', refused: 'not yet' },
    { name: 'load-snapshot', short: 'l', argument: 'SNAPSHOT', refused: 'not yet' },
    { name: 'nocache', short: 'n', refused: 'files are used through the page cache' },
    { name: 'cache', argument: 'MODE', refused: 'files are used through the page cache' },
    { name: 'aio', argument: 'MODE', refused: 'it is chosen by itself' },
    {
      name: 'discard',
      argument: 'MODE',
      help: 'unmap (or on): what clients discard becomes holes in the file; ignore (or off, default)',
    },
    { name: 'detect-zeroes', argument: 'MODE', refused: 'not yet' },
    {
      name: 'image-opts',
      help: "FILE is a list of QEMU's options: driver=qcow2,file.filename=…,l2-cache-size=…",
    },
  ],
  notes:
    'Ends after the last client, unless -t. SIGTERM and SIGINT finish what runs and close the image.\n' +
    'Examples:\n' +
    '  qcow2 serve -t -e 0 -k /tmp/disk.sock disk.qcow2\n' +
    "  nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'",
  run: runServe,
};

async function runServe(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const shared = integerOption(args, 'shared', 0, 2 ** 31 - 1) ?? 1;
  const address = addressOf(args);
  const readOnly = args.has('read-only');
  const journal = journalMode(args);
  const idleSeconds = integerOption(args, 'journal-idle', 0, 86400);
  const follow = followPolicy(args);
  // Asked for early: a signal that comes while the image is being opened is not lost.
  const { stop } = context;

  const { createNbdServer, nbdUri } = await import('@qcow2/nbd');
  const discard = discardMode(args);
  const image = await openNamed(args, name, { readOnly, journal, idleSeconds, follow, discard }, context);
  const verbose = args.has('verbose');
  const say = (line: string): void => {
    if (verbose) context.err(`${context.programName}: ${line}\n`);
  };
  try {
    const exportName = args.value('export-name') ?? '';
    const metadataContexts = await contextsOf(args, image);
    const server = createNbdServer({
      exports: [
        {
          name: exportName,
          device: image.device,
          description: args.value('description') ?? '',
          readOnly,
          holesReadAsZeros: !image.hasBacking,
          metadataContexts,
        },
      ],
      ...(shared === 0 ? {} : { maxClients: shared }),
      persistent: args.has('persistent'),
      onClient: (client) => say(`client ${client.id} connected`),
      onClientGone: (client, remaining) => say(`client ${client.id} gone, ${remaining} left`),
      onViolation: (client, reason) => say(`client ${client.id}: ${reason}`),
      onRequestFailed: ({ client, command, offset, lengthBytes, error }) =>
        say(`client ${client.id}: ${command} ${offset}+${lengthBytes}: ${String(error)}`),
    });
    // The socket file goes when its listener is closed; one that a killed server left is replaced.
    const bound = await server.listen(address);
    say(`serving ${name} at ${nbdUri(bound, exportName)}`);
    await untilStopped(stop, server);
  } finally {
    await image.close();
    const summary = image.summary();
    if (summary !== undefined) say(summary);
  }
  return 0;
}

/** As qemu-nbd: the depth before the bitmap. */
async function contextsOf(args: ParsedArguments, image: ServedImage): Promise<NbdMetadataContext[]> {
  const bitmap = args.value('bitmap');
  if (bitmap === undefined && !args.has('allocation-depth')) return [];
  const { allocationDepthContext, dirtyBitmapContext } = await import('../block-contexts.ts');
  return [
    ...(args.has('allocation-depth') ? [allocationDepthContext(image.layers)] : []),
    ...(bitmap === undefined ? [] : [await dirtyBitmapContext(image.image, bitmap)]),
  ];
}

/** The image, named by its file or, with --image-opts, by QEMU's options. */
async function openNamed(
  args: ParsedArguments,
  name: string,
  how: ServedImageOptions,
  context: CommandContext,
): Promise<ServedImage> {
  const { openServedImage } = await import('../served-image.ts');
  const { namedImage } = await import('../named-image.ts');
  const named = namedImage(args, name, 'qemu-nbd');
  for (const short of named.options?.shortForms ?? []) {
    const advice = `short-form boolean option '${short}' deprecated\nPlease use ${short}=on instead`;
    context.err(`${context.programName}: warning: ${advice}\n`);
  }
  return await openServedImage(named, how);
}

/** Resolves when the server has closed, by itself or because it was told to. */
export async function untilStopped(
  stop: AbortSignal,
  server: { close(): Promise<void>; readonly closed: Promise<void> },
): Promise<void> {
  const onStop = (): void => void server.close();
  if (stop.aborted) onStop();
  else stop.addEventListener('abort', onStop, { once: true });
  await server.closed;
  stop.removeEventListener('abort', onStop);
}

function addressOf(args: ParsedArguments): { path: string } | { host: string; port: number } {
  const path = args.value('socket');
  if (path === undefined) {
    return { host: args.value('bind') ?? '127.0.0.1', port: integerOption(args, 'port', 0, 65535) ?? 10809 };
  }
  if (args.has('port') || args.has('bind')) {
    throw new CommandFailure('The --socket option is mutually exclusive with --port and --bind');
  }
  return { path };
}

function journalMode(args: ParsedArguments): JournalMode {
  const mode = args.value('journal') ?? 'auto';
  if (mode === 'on' || mode === 'off' || mode === 'auto') return mode;
  throw new CommandFailure(`--journal must be on, off or auto, not '${mode}'`);
}

function discardMode(args: ParsedArguments): 'ignore' | 'unmap' {
  const mode = args.value('discard') ?? 'ignore';
  if (mode === 'ignore' || mode === 'off') return 'ignore';
  if (mode === 'unmap' || mode === 'on') return 'unmap';
  throw new CommandFailure(`Invalid discard mode \`${mode}'`);
}

function integerOption(args: ParsedArguments, name: string, min: number, max: number): number | undefined {
  const text = args.value(name);
  if (text === undefined) return undefined;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new CommandFailure(`Invalid ${name} '${text}': expecting a number from ${min} to ${max}`);
}
