/**
 * `serve --connect` and `--disconnect`: a served image as a block device of this machine. Node has no ioctl, so what is said to the
 * kernel is said by the program nbd-client: it is started on a unix socket in a folder that only this user enters, shakes hands, and
 * leaves the connection to the kernel. From then on the kernel is a client like others, and its going is the end of the server.
 *
 * A server that is killed takes the connection away: the kernel fails what waits, and what was flushed is in the image.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ParsedArguments } from './arguments.ts';
import type { CommandContext } from './command.ts';
import { CommandFailure, describeError, usageFailure } from './failures.ts';
import { systemReason } from './system-reason.ts';

/** Every length that is whole sectors fits, as with qemu-nbd. */
const blockBytes = 512;

/** @throws CommandFailure in qemu-nbd's words where it can not be opened */
export function requireDevice(path: string, words: string): void {
  try {
    closeSync(openSync(path, 'r'));
  } catch (cause) {
    throw new CommandFailure(`${words} ${path}: ${systemReason(cause)}`, { cause });
  }
}

/** `--disconnect DEV`. @throws CommandFailure */
export async function disconnect(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [device, ...extra] = args.operands;
  if (device === undefined || extra.length > 0) throw usageFailure('Invalid number of arguments');
  requireDevice(device, 'Cannot open');
  await runNbdClient(['-d', device], `Failed to disconnect ${device}`);
  context.out(`${device} disconnected\n`);
  return 0;
}

/** Where nbd-client finds the server. */
export interface MeetingPlace {
  readonly path: string;
  /** Nobody is to come any more: away with it, where it was made for this. */
  remove(): void;
}

/** @param wanted the socket that the caller chose, which stays as it is */
export function meetingPlace(wanted: string | undefined): MeetingPlace {
  if (wanted !== undefined) return { path: wanted, remove: () => undefined };
  const folder = mkdtempSync(join(tmpdir(), 'qcow2-nbd-')); // 0700
  return { path: join(folder, 'socket'), remove: () => rmSync(folder, { recursive: true, force: true }) };
}

export interface Attachment {
  readonly device: string;
  readonly socketPath: string;
  readonly exportName: string;
  readonly readOnly: boolean;
}

/** Resolves when the kernel has the connection. @throws CommandFailure */
export async function attach({ device, socketPath, exportName, readOnly }: Attachment): Promise<void> {
  await runNbdClient(
    [
      ...['-unix', socketPath, device, '-b', String(blockBytes)],
      ...(exportName === '' ? [] : ['-name', exportName]),
      ...(readOnly ? ['-R'] : []),
    ],
    `Failed to connect ${device}`,
  );
}

/** Asks the kernel to write back and let go. @returns what went wrong, if anything: the server ends all the same */
export async function detach(device: string): Promise<string | undefined> {
  try {
    await runNbdClient(['-d', device], `Failed to disconnect ${device}`);
    return undefined;
  } catch (error) {
    return describeError(error);
  }
}

async function runNbdClient(words: readonly string[], failure: string): Promise<void> {
  // Where only root has the folders of system programs on its PATH, and not after every `su`.
  const PATH = [process.env.PATH, '/usr/sbin', '/sbin'].filter((part) => part !== undefined).join(':');
  const child = spawn('nbd-client', words, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH },
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  let code: unknown;
  let signal: unknown;
  try {
    // Not until its stream closes: what it leaves running in the background may hold that.
    [code, signal] = await once(child, 'exit');
  } catch (cause) {
    const isMissing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
    const reason = isMissing ? 'nbd-client is not installed' : `nbd-client: ${systemReason(cause)}`;
    throw new CommandFailure(`${failure}: ${reason}`, { cause });
  }
  if (code === 0) {
    child.stderr.destroy();
    return;
  }
  if (!child.stderr.closed) await once(child.stderr, 'close');
  throw new CommandFailure(`${failure}: nbd-client: ${reasonIn(said) ?? `ended with ${code ?? signal}`}`);
}

/** The line that it calls an error, or its last one. */
function reasonIn(said: string): string | undefined {
  const lines = said.split('\n').map((line) => line.trim());
  const error = lines.find((line) => line.startsWith('Error: '));
  return error?.slice('Error: '.length) ?? lines.findLast((line) => line !== '' && line !== 'Exiting.');
}
