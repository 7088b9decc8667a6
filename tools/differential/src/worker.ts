/**
 * A thread of a campaign: it takes one job after the other. The number of the operation under way stands in shared memory, so that
 * the main thread can name the one that does not end.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { InvariantError } from '@qcow2/spec';
import { kindNamed } from './kinds.ts';
import { minimize } from './minimize.ts';
import { type Failure, type RunOptions, run } from './run.ts';
import type { Tally } from './scene.ts';

export interface Job {
  readonly kind: string;
  readonly seed: number;
  readonly operations: number;
  readonly only: readonly number[] | undefined;
}

export interface FoundFailure extends Failure {
  /** Operations that are enough for it, where fewer were looked for. */
  readonly enough: readonly number[] | undefined;
}

export interface JobDone {
  readonly tally: Tally;
  readonly failure: FoundFailure | undefined;
}

export interface WorkerTask {
  /** Two numbers: that of the operation, and how many were begun. */
  readonly heartbeat: SharedArrayBuffer;
  readonly minimizes: boolean;
}

/** How often a failing run is repeated with fewer operations. */
const mostRepeats = 120;

async function work(job: Job, { heartbeat, minimizes }: WorkerTask): Promise<JobDone> {
  const beat = new Int32Array(heartbeat);
  const kind = kindNamed(job.kind);
  if (kind === undefined) throw new InvariantError('a job of a kind that there is not');
  const options: RunOptions = {
    kind,
    seed: job.seed,
    operations: job.operations,
    only: job.only === undefined ? undefined : new Set(job.only),
    onOperation: (number) => {
      Atomics.store(beat, 0, number);
      Atomics.add(beat, 1, 1);
    },
  };
  const { tally, failure } = await run(options);
  if (failure === undefined || !minimizes || job.only !== undefined) {
    return { tally, failure: failure === undefined ? undefined : { ...failure, enough: undefined } };
  }
  const enough = await minimize(
    Array.from({ length: failure.operations }, (_, number) => number),
    async (operations) => {
      const again = await run({ ...options, operations: failure.operations, only: new Set(operations) });
      return again.failure !== undefined && nature(again.failure) === nature(failure);
    },
    mostRepeats,
  );
  return { tally, failure: { ...failure, enough } };
}

/** What went wrong, without where. */
function nature({ message }: Failure): string {
  return (message.split('\n')[0] ?? '').replaceAll(/\d+/g, '#').slice(0, 60);
}

if (parentPort !== null) {
  const port = parentPort;
  port.on('message', (job: Job) => {
    void work(job, workerData as WorkerTask).then((done) => port.postMessage(done));
  });
}
