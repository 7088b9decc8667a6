/**
 * `--fork`: the same program once more, apart from the terminal and without this terminal's streams. Node has no fork: what the parent
 * has opened or read is opened and read again by the child, and nothing is handed over.
 *
 * The child speaks over a channel until it is ready, then closes it: a pipe that somebody reads this command's output from
 * ends with the parent, and is not held open by a server.
 */
import { spawn } from 'node:child_process';

/** What the child says. */
type Message = { readonly said: string } | { readonly ready: true };

/** @returns 0 once the child is ready, or the exit code of one that was not */
export async function sendToBackground(verbose: boolean, stop: AbortSignal): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    detached: true,
    stdio: ['ignore', 'ignore', verbose ? 'inherit' : 'ignore', 'ipc'],
    env: { ...process.env, QCOW2_BACKGROUND: '1' },
  });
  const end = (): void => void child.kill('SIGTERM');
  stop.addEventListener('abort', end, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.on('message', (message: Message) => {
        if ('said' in message) process.stderr.write(message.said);
        else resolve(0);
      });
      // After its last message, unlike `exit`.
      child.once('close', (code) => resolve(code === 0 || code === null ? 1 : code));
    });
  } finally {
    stop.removeEventListener('abort', end);
    child.unref();
  }
}
