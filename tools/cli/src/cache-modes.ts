/**
 * `-t` and `-T`: QEMU's cache modes. Files are used through the page cache whatever is said, which changes no byte; what a mode promises
 * of durability is kept: all but `unsafe` have what was written on the disk when the command ends. With `unsafe`, which is what `convert`
 * takes for an image that it makes, nothing is flushed at all, as by qemu-img.
 */
import { CommandFailure } from './failures.ts';

const modes = ['none', 'off', 'directsync', 'writeback', 'unsafe', 'writethrough'];

export const sourceCacheOption = {
  name: 'source-cache',
  short: 'T',
  argument: 'MODE',
  help: 'cache mode of what is read; files are read through the page cache',
} as const;

export const targetCacheOption = {
  name: 'cache',
  short: 't',
  argument: 'MODE',
  help: 'cache mode of what is written; all but unsafe: durable when the command ends',
} as const;

/** @throws CommandFailure for a mode that QEMU does not know */
export function checkCacheMode(
  mode: string | undefined,
  which: 'source cache' | 'cache',
  exitCode = 1,
): void {
  if (mode === undefined || modes.includes(mode)) return;
  throw new CommandFailure(`Invalid ${which} option: ${mode}`, { exitCode });
}
