/**
 * A campaign: a thread for each target, as many at once as asked for, and a watchdog. A thread that begins no new input
 * for `hangMs` is ended and its input is a finding; so is one that runs out of its heap.
 */
import { Worker } from 'node:worker_threads';
import { StateError } from '@qcow2/spec';
import type { Finding } from './fuzzer.ts';
import { Heartbeat } from './heartbeat.ts';
import type { FuzzInput } from './input.ts';
import type { WorkerDone, WorkerMessage, WorkerTask } from './worker.ts';

export interface Share {
  readonly target: string;
  readonly count: number;
  readonly timeoutMs: number | undefined;
}

export interface CampaignOptions {
  readonly seed: number;
  readonly threads: number;
  readonly corpus: readonly FuzzInput[];
  readonly onFinding: (finding: Finding) => void;
  /** The longest that one input may take; default 20 s. */
  readonly hangMs?: number;
}

/** Bytes of heap that a thread may hold: an input that needs more is a finding. */
const heapMegabytes = 400;

export async function runCampaign(shares: readonly Share[], options: CampaignOptions): Promise<WorkerDone[]> {
  const waiting = [...shares];
  const done: WorkerDone[] = [];
  const lane = async (): Promise<void> => {
    for (let share = waiting.shift(); share !== undefined; share = waiting.shift()) {
      const one = await runShare(share, options);
      if (one !== undefined) done.push(one);
    }
  };
  await Promise.all(Array.from({ length: options.threads }, lane));
  return done;
}

/** @returns nothing where the thread had to be ended: its finding was told */
function runShare(share: Share, options: CampaignOptions): Promise<WorkerDone | undefined> {
  const memory = Heartbeat.memory();
  const heartbeat = new Heartbeat(memory);
  const task: WorkerTask = {
    ...share,
    seed: options.seed,
    corpus: options.corpus.filter(({ target }) => target === share.target),
    heartbeat: memory,
  };
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: task,
    resourceLimits: { maxOldGenerationSizeMb: heapMegabytes },
  });
  return new Promise((resolve, reject) => {
    let done: WorkerDone | undefined;
    let seen = 0;
    const watchdog = setInterval(() => {
      if (heartbeat.count === seen && seen > 0) {
        options.onFinding({ input: heartbeat.id, text: 'does not end' });
        void worker.terminate();
      }
      seen = heartbeat.count;
    }, options.hangMs ?? 20_000);
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'finding') options.onFinding(message.finding);
      else done = message.done;
    });
    worker.on('error', (error: Error & { code?: string }) => {
      if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') {
        options.onFinding({ input: heartbeat.id, text: `needs more than ${heapMegabytes} MiB of heap` });
      } else {
        clearInterval(watchdog);
        reject(new StateError('ABORTED', `a thread ended at ${heartbeat.id}`, {}, error));
      }
    });
    worker.on('exit', () => {
      clearInterval(watchdog);
      resolve(done);
    });
  });
}
