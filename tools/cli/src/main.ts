#!/usr/bin/env -S node --initial-old-space-size=128
/**
 * The command's first instructions: a cache for compiled code, the program's name, its streams, signals.
 * Everything else is loaded after the cache is on.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import module from 'node:module';
import { basename } from 'node:path';

module.enableCompileCache?.();

const { runProgram } = await import('./program.ts');

const stop = new AbortController();
/**
 * The first signal asks commands that wait to finish; the default (the process ends at once) is back for the
 * second, and stays for commands that do not wait.
 */
const stopOnSignal = (signal: NodeJS.Signals): void => {
  process.once(signal, () => stop.abort(signal));
};

process.exitCode = await runProgram(process.argv.slice(2), context(), version());

function context() {
  const isThere = process.env.QCOW2_BACKGROUND === '1';
  delete process.env.QCOW2_BACKGROUND;
  // A reader that goes away (`qcow2 info … | head -1`) is no failure worth a stack.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  }
  return {
    programName: programName(),
    out: (text: string) => void process.stdout.write(text),
    drained: async () => {
      if (process.stdout.writableNeedDrain) await once(process.stdout, 'drain');
    },
    terminal: process.stdout.isTTY
      ? { columns: process.stdout.columns, colour: (process.env.NO_COLOR ?? '') === '' }
      : undefined,
    err: (text: string) => {
      // Until it is ready, who was sent to the background has no other voice than its parent's.
      if (isThere && process.connected) process.send?.({ said: text });
      else process.stderr.write(text);
    },
    background: {
      isThere,
      send: async (verbose: boolean, signal: AbortSignal) => {
        const { sendToBackground } = await import('./background.ts');
        return await sendToBackground(verbose, signal);
      },
      ready: () => {
        if (!isThere || !process.connected) return;
        process.send?.({ ready: true });
        process.disconnect?.();
      },
    },
    get stop(): AbortSignal {
      if (process.listenerCount('SIGTERM') === 0) {
        stopOnSignal('SIGTERM');
        stopOnSignal('SIGINT');
      }
      return stop.signal;
    },
  };
}

/** A launcher says in QCOW2_PROGRAM_NAME what it was called as; otherwise it is the link that Node was given. */
function programName(): string {
  const called = basename(process.env.QCOW2_PROGRAM_NAME ?? process.argv[1] ?? '');
  return called === 'qemu-img' ? called : 'qcow2';
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return manifest !== null && typeof manifest === 'object' && 'version' in manifest
    ? String(manifest.version)
    : 'unknown';
}
