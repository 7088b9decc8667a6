/** A campaign: jobs shared out among threads, and a watchdog that ends what does not end by itself. */
import { Worker } from 'node:worker_threads';
import { StateError } from '@qcow2/spec';
import { kinds } from './kinds.ts';
import { addTally, emptyTally, type Tally } from './scene.ts';
import type { FoundFailure, Job, JobDone, WorkerTask } from './worker.ts';

export interface CampaignOptions {
  readonly threads: number;
  readonly minimizes: boolean;
  readonly onFailure: (failure: FoundFailure) => void;
  readonly onDone?: (job: Job, jobsDone: number, sum: Tally) => void;
}

/** The longest that one operation may take: QEMU's turns have a limit of their own. */
const hangMs = 400_000;

export interface Choice {
  readonly firstSeed: number;
  readonly seeds: number;
  readonly operations: number;
  /** A name; `all`: each seed on every kind; undefined: the kinds by turns. */
  readonly kind: string | undefined;
  readonly only: readonly number[] | undefined;
  readonly part: { readonly number: number; readonly of: number };
}

export function jobsOf({ firstSeed, seeds, operations, kind, only, part }: Choice): Job[] {
  const jobs: Job[] = [];
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const turn = kinds[(seed - 1 + kinds.length) % kinds.length]!.name;
    const names = kind === 'all' ? kinds.map(({ name }) => name) : [kind ?? turn];
    for (const name of names) jobs.push({ kind: name, seed, operations, only });
  }
  return jobs.filter((_, index) => index % part.of === part.number - 1);
}

/** Run all jobs. Returns what was counted. */
export async function runCampaign(jobs: readonly Job[], options: CampaignOptions): Promise<Tally> {
  const waiting = [...jobs];
  const sum = emptyTally();
  let done = 0;
  const lane = async (): Promise<void> => {
    let thread: Thread | undefined;
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) {
      thread ??= new Thread(options.minimizes);
      const { tally, failure } = await thread.run(job);
      addTally(sum, tally);
      if (failure !== undefined) options.onFailure(failure);
      options.onDone?.(job, ++done, sum);
      if (thread.isOver) thread = undefined;
    }
    await thread?.end();
  };
  await Promise.all(Array.from({ length: options.threads }, lane));
  return sum;
}

class Thread {
  readonly #worker: Worker;
  readonly #beat: Int32Array;
  isOver = false;

  constructor(minimizes: boolean) {
    const heartbeat = new SharedArrayBuffer(8);
    this.#beat = new Int32Array(heartbeat);
    const task: WorkerTask = { heartbeat, minimizes };
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: task });
  }

  async run(job: Job): Promise<JobDone> {
    const answer = Promise.withResolvers<JobDone>();
    const onError = (error: Error): void => {
      answer.reject(new StateError('ABORTED', `a thread ended at ${job.kind}, seed ${job.seed}`, {}, error));
    };
    let seen = -1;
    const watchdog = setInterval(() => {
      const begun = Atomics.load(this.#beat, 1);
      if (begun === seen) answer.resolve(this.#hung(job));
      seen = begun;
    }, hangMs);
    this.#worker.on('message', answer.resolve);
    this.#worker.on('error', onError);
    try {
      this.#worker.postMessage(job);
      return await answer.promise;
    } finally {
      clearInterval(watchdog);
      this.#worker.off('message', answer.resolve);
      this.#worker.off('error', onError);
    }
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #hung({ kind, seed }: Job): JobDone {
    this.isOver = true;
    void this.#worker.terminate();
    const operations = Atomics.load(this.#beat, 0) + 1;
    const failure = { kind, seed, operations, told: '', message: 'does not end', enough: undefined };
    return { tally: emptyTally(), failure };
  }
}
