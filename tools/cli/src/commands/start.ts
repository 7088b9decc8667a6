/**
 * `start [IMAGE]`: the shortest way to a running server. The image is made where it is missing, with a journal,
 * and served on this machine, with every line that one may want to paste next.
 */
import { existsSync } from 'node:fs';
import type { NbdAddress, NbdServer } from '@qcow2/nbd';
import { createNbdServer, nbdDefaultPort, nbdUri } from '@qcow2/nbd';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { namedImage } from '../named-image.ts';
import { openServedImage } from '../served-image.ts';
import { untilStopped } from './serve.ts';

const defaultImage = './qcow2.img';
const defaultSizeBytes = 1024 ** 3;
const host = '127.0.0.1';
/** Ports tried, from the protocol's own on. */
const portsTried = 32;

export const start: Command = {
  operands: '[IMAGE]',
  options: [
    { name: 'size', argument: 'SIZE', help: 'of an image that is made (default 1G)' },
    ...followOptions,
  ],
  run: runStart,
};

async function runStart(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name = defaultImage, ...extra] = args.operands;
  if (extra.length > 0) throw usageFailure('Expecting at most one image file name');
  const follow = followPolicy(args);
  const { stop } = context;
  if (!existsSync(name)) {
    await makeImage(name, args.value('size'));
    context.out(`Made ${name}: qcow2 with a journal\n`);
  }
  const image = await openServedImage(namedImage(args, name), { readOnly: false, journal: 'auto', follow });
  try {
    const server = createNbdServer({
      exports: [{ name: '', device: image.device, holesReadAsZeros: !image.hasBacking }],
    });
    const bound = await listenOnFreePort(server);
    context.out(howToConnect(name, nbdUri(bound)));
    await untilStopped(stop, server);
  } finally {
    await image.close();
  }
  context.out(`Closed ${name}\n`);
  return 0;
}

async function makeImage(name: string, size: string | undefined): Promise<void> {
  const { createImage } = await import('@qcow2/driver');
  const { openFile } = await import('@qcow2/fs');
  const { parseSize } = await import('../sizes.ts');
  const parsed = size === undefined ? undefined : parseSize(size);
  if (typeof parsed === 'string') throw usageFailure(`Invalid size '${size}'`);
  const device = openFile(name, { create: 'exclusive', lock: 'writer' });
  try {
    const sizeBytes = parsed === undefined ? defaultSizeBytes : Number(parsed.bytes);
    await createImage(device, { sizeBytes: Math.ceil(sizeBytes / 512) * 512, journal: {} });
  } finally {
    await device.close();
  }
}

async function listenOnFreePort(server: NbdServer): Promise<NbdAddress> {
  for (let port = nbdDefaultPort; ; port++) {
    try {
      return await server.listen({ host, port });
    } catch (error) {
      const taken = error instanceof Qcow2Error && error.code === 'IN_USE';
      if (!taken || port >= nbdDefaultPort + portsTried) throw error;
    }
  }
}

function howToConnect(name: string, uri: string): string {
  return [
    `Serving ${name} at ${uri} until Ctrl-C. For example:`,
    `  nbdinfo ${uri}`,
    `  qemu-img info ${uri}`,
    `  nbdcopy ${uri} copy.raw`,
    `  qemu-system-x86_64 -drive file=${uri},format=raw,if=virtio`,
    '',
  ].join('\n');
}
