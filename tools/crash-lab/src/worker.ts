/**
 * A thread of the lab. It plants the mutant of the code, if the task names one, and only then loads the driver and
 * everything that uses it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { WorkerTask } from './campaign-thread.ts';
import { codeMutant } from './code-mutants.ts';
import { plantMutant } from './mutant-loader.ts';

if (parentPort !== null) {
  const port = parentPort;
  const task = workerData as WorkerTask;
  const mutant = task.mutation === undefined ? undefined : codeMutant(task.mutation);
  const planted = mutant === undefined ? undefined : plantMutant(mutant);
  const { work } = await import('./campaign-thread.ts');
  planted?.expectPlanted();
  await work(task, (message) => port.postMessage(message));
}
