/**
 * `serve`: an image over NBD, with qemu-nbd's options.
 *
 * The end: SIGTERM, SIGINT, or (without --persistent) the last client going. Requests in flight are answered,
 * then the image is closed: written back, its dirty bit cleared. Killed instead, a journalled image
 * recovers when it is opened next. With --connect the kernel is the client: a signal first makes it let go.
 */

import type { NbdMetadataContext, NbdServer, NbdServerTls } from '@qcow2/nbd';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { followPolicy } from '../follow.ts';
import { type ServePlan, serveOptions, servePlan } from '../serve-options.ts';
import type { ServedImage } from '../served-image.ts';
import type { WatchSample } from '../watch/sample.ts';

export const serve: Command = {
  operands: '[FILE]',
  options: serveOptions,
  notes:
    'Ends after the last client, unless -t. SIGTERM and SIGINT finish what runs and close the image.\n' +
    'Examples:\n' +
    '  qcow2 serve -t -e 0 -k /tmp/disk.sock disk.qcow2\n' +
    "  nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'",
  run: runServe,
};

async function runServe(args: ParsedArguments, context: CommandContext): Promise<number> {
  if (args.has('list')) {
    const { listOfExports } = await import('../list-exports.ts');
    context.out(await listOfExports(args, servePlan(args, context).address));
    return 0;
  }
  if (args.has('disconnect')) return await (await import('../attached-device.ts')).disconnect(args, context);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Invalid number of arguments');
  const plan = servePlan(args, context);
  if (args.has('tls-hostname')) throw new CommandFailure('TLS hostname is only supported with export list');
  // Asked for early: a signal that comes while the image is being opened is not lost.
  const { stop, background } = context;
  const isSent =
    args.has('fork') || (args.has('connect') && !args.has('verbose') && background !== undefined);
  if (isSent && background?.isThere !== true) {
    if (background === undefined) throw new CommandFailure('there is no program to send to the background');
    return await background.send(args.has('verbose'), stop);
  }

  const credentials = args.value('tls-creds');
  const tls =
    credentials === undefined
      ? undefined
      : await (await import('../serve-tls.ts')).serverTls(args, credentials);
  const image = await openPlanned(args, name, plan, context);
  const say = (line: string): void => {
    if (args.has('verbose')) context.err(`${context.programName}: ${line}\n`);
  };
  try {
    const server = await serverOf(args, image, plan, { tls, say });
    const beside = await openBeside(args, name, image, server);
    try {
      const running = await listening(args, plan, server, say);
      beside.writePid();
      background?.ready();
      say(`serving ${name} at ${running.where}`);
      await untilStopped(stop, running);
    } finally {
      beside.close();
      await server.close();
    }
  } finally {
    await image.close();
    const summary = image.summary();
    if (summary !== undefined) say(summary);
  }
  return 0;
}

/** A server that clients reach, and how it is told to end. With --connect the kernel is one of them by then. */
async function listening(
  args: ParsedArguments,
  plan: ServePlan,
  server: NbdServer,
  say: (line: string) => void,
): Promise<{ readonly where: string; close(): Promise<void>; readonly closed: Promise<void> }> {
  const device = args.value('connect');
  const exportName = args.value('export-name') ?? '';
  const close = async (): Promise<void> => await server.close();
  if (device === undefined) {
    const { nbdUri } = await import('@qcow2/nbd');
    // The socket file goes when its listener is closed; one that a killed server left is replaced.
    const bound = await server.listen(plan.address);
    return { where: nbdUri(bound, exportName, args.has('tls-creds')), close, closed: server.closed };
  }
  const { attach, detach, meetingPlace, requireDevice } = await import('../attached-device.ts');
  requireDevice(device, 'Failed to open');
  const place = meetingPlace(args.value('socket'));
  try {
    await server.listen({ path: place.path });
    await attach({ device, socketPath: place.path, exportName, readOnly: plan.readOnly });
  } finally {
    place.remove();
  }
  const letGo = async (): Promise<void> => {
    const failure = await detach(device);
    if (failure !== undefined) say(failure);
    await server.close();
  };
  return { where: device, close: letGo, closed: server.closed };
}

/** What a server has beside its clients: a socket to be watched through, a file with its process id. */
async function openBeside(
  args: ParsedArguments,
  name: string,
  image: ServedImage,
  server: NbdServer,
): Promise<{ writePid(): void; close(): void }> {
  const [pidFile, watched] = [args.value('pid-file'), args.value('watch-socket')];
  const pid = pidFile === undefined ? undefined : await import('../pid-file.ts');
  const startedMs = performance.now();
  const watching =
    watched === undefined
      ? undefined
      : await (await import('../watch/watch-socket.ts')).openWatchSocket(watched, await sampling(name));
  return {
    writePid: () => pid?.writePidFile(pidFile ?? ''),
    close: () => watching?.close(),
  };

  async function sampling(of: string): Promise<() => WatchSample> {
    const { takeSample } = await import('../watch/sample.ts');
    return () => takeSample(of, image, server.counters(), startedMs);
  }
}

/** A server of the planned part of the disk, under the planned policy; it listens nowhere yet. */
async function serverOf(
  args: ParsedArguments,
  image: ServedImage,
  plan: ServePlan,
  { tls, say }: { readonly tls: NbdServerTls | undefined; readonly say: (line: string) => void },
): Promise<NbdServer> {
  const { createNbdServer } = await import('@qcow2/nbd');
  const { contextFrom, diskFrom } = await import('../served-window.ts');
  const { withWritePolicy } = await import('../write-policy.ts');
  const device = withWritePolicy(diskFrom(image.device, plan.offset), plan.policy);
  const contexts = await contextsOf(args, image);
  return createNbdServer({
    exports: [
      {
        name: args.value('export-name') ?? '',
        device,
        description: args.value('description') ?? '',
        readOnly: plan.readOnly,
        holesReadAsZeros: !image.hasBacking,
        metadataContexts: contexts.map((each) => contextFrom(each, plan.offset)),
      },
    ],
    ...(tls === undefined ? {} : { tls }),
    ...(plan.clients === 0 ? {} : { maxClients: plan.clients }),
    // A device that is disconnected is the end, also with --persistent.
    persistent: args.has('persistent') && !args.has('connect'),
    measureLatency: args.has('watch-socket'),
    onClient: (client) => say(`client ${client.id} connected`),
    onClientGone: (client, remaining) => say(`client ${client.id} gone, ${remaining} left`),
    onViolation: (client, reason) => say(`client ${client.id}: ${reason}`),
    onRequestFailed: ({ client, command, offset, lengthBytes, error }) =>
      say(`client ${client.id}: ${command} ${offset}+${lengthBytes}: ${String(error)}`),
  });
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

/** The image, named by its file or, with --image-opts, by QEMU's options; under a temporary one, or a snapshot of it. */
async function openPlanned(
  args: ParsedArguments,
  name: string,
  plan: ServePlan,
  context: CommandContext,
): Promise<ServedImage> {
  const { openServedImage } = await import('../served-image.ts');
  const { namedImage } = await import('../named-image.ts');
  const named = namedImage(args, name, 'qemu-nbd');
  for (const short of named.options?.shortForms ?? []) {
    const advice = `short-form boolean option '${short}' deprecated\nPlease use ${short}=on instead`;
    context.err(`${context.programName}: warning: ${advice}\n`);
  }
  const { journal, idleSeconds, discard, temporary, snapshot } = plan;
  const readOnly = plan.readOnly || temporary;
  const follow = followPolicy(args);
  const options = { readOnly, journal, idleSeconds, follow, discard };
  const image = await openServedImage(named, options).catch((error: unknown) => {
    throw inWordsOfQemuNbd(name, error);
  });
  try {
    if (temporary) {
      // A temporary image has no snapshots, as QEMU finds as well.
      if (snapshot !== undefined) throw new CommandFailure("Failed to load snapshot: Can't find snapshot");
      return await (await import('../temporary-overlay.ts')).underTemporary(image);
    }
    if (snapshot === undefined) return image;
    const device = await (await import('../snapshot-choice.ts')).snapshotDisk(image.image, snapshot);
    return { ...image, device, layers: [device, ...image.layers.slice(1)] };
  } catch (error) {
    await image.close();
    throw error;
  }
}

/** What qemu-img calls "Could not open" is "Failed to blk_new_open" here. */
function inWordsOfQemuNbd(name: string, error: unknown): unknown {
  const words = `Could not open '${name}': `;
  if (!(error instanceof CommandFailure) || !error.message.startsWith(words)) return error;
  const reason = error.message.slice(words.length);
  return new CommandFailure(`Failed to blk_new_open '${name}': ${reason}`, { cause: error });
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
