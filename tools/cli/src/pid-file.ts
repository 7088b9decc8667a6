/**
 * `--pid-file`: the process id in a file, which is locked for as long as the process runs, where there are native calls: a second server
 * does not take the file away from the first, and what a server that is gone left behind is no hindrance. The file stays when the
 * process ends, as QEMU's does.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, statSync, writeSync } from 'node:fs';
import { nativeSupport } from '@qcow2/fs';
import { CommandFailure } from './failures.ts';
import { systemReason } from './system-reason.ts';

const createFlags = 'a'; // made where it is not there, and not emptied before it is locked

/** @throws CommandFailure in QEMU's words */
export function writePidFile(path: string): void {
  for (;;) {
    const file = openLocked(path);
    // Between opening and locking, the one who held it may have taken it away.
    const named = statSync(path, { throwIfNoEntry: false });
    const opened = fstatSync(file);
    if (named?.ino !== opened.ino || named.dev !== opened.dev) {
      closeSync(file);
      continue;
    }
    ftruncateSync(file);
    writeSync(file, `${process.pid}\n`);
    return; // open until the process ends, with its lock
  }
}

function openLocked(path: string): number {
  let file: number;
  try {
    file = openSync(path, createFlags, 0o600);
  } catch (cause) {
    throw new CommandFailure(`Could not create '${path}': ${systemReason(cause)}`, { cause });
  }
  const wholeFile = 0;
  if (nativeSupport().calls?.lock(file, 'exclusive', 0, wholeFile) === false) {
    closeSync(file);
    throw new CommandFailure('Cannot lock pid file: Resource temporarily unavailable');
  }
  return file;
}
