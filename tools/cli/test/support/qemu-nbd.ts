/** The real qemu-nbd on a unix socket, for reading what we wrote with other people's code. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Serve an image read-only while `action` runs. */
export async function withQemuNbd<T>(
  image: string,
  socket: string,
  action: () => T | Promise<T>,
): Promise<T> {
  const child = spawn('qemu-nbd', ['-r', '-t', '-f', 'qcow2', '-k', socket, image], { stdio: 'ignore' });
  const ended = once(child, 'close');
  try {
    for (let waited = 0; !existsSync(socket) && child.exitCode === null && waited < 10_000; waited += 5)
      await sleep(5);
    return await action();
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}
