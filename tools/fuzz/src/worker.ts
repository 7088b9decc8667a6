/**
 * One thread of a campaign: one target, batch after batch, until its count or its time is over. It writes the id of each
 * input into shared memory before it runs it, so that the main thread can name the input that hung, or that took all
 * of the heap.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { type Finding, Fuzzer } from './fuzzer.ts';
import { Heartbeat } from './heartbeat.ts';
import { type FuzzInput, formatInput } from './input.ts';
import { makeTarget } from './targets.ts';

export interface WorkerTask {
  readonly target: string;
  readonly seed: number;
  readonly corpus: readonly FuzzInput[];
  /** Inputs to run; with `timeoutMs` as many as the time allows. */
  readonly count: number;
  readonly timeoutMs: number | undefined;
  readonly heartbeat: SharedArrayBuffer;
}

export interface WorkerDone {
  readonly target: string;
  readonly inputs: number;
  readonly mutations: number;
  readonly answers: number;
  readonly findings: readonly Finding[];
  /** Inputs that gave an answer that no earlier one gave. */
  readonly corpus: readonly string[];
}

export type WorkerMessage =
  | { readonly kind: 'finding'; readonly finding: Finding }
  | { readonly kind: 'done'; readonly done: WorkerDone };

/** Findings after which a thread stops: more of the same help nobody. */
const mostFindings = 100;
const batch = 500;

async function work(task: WorkerTask, tell: (message: WorkerMessage) => void): Promise<void> {
  // Stacks cost more than most inputs; who wants to see one runs the input alone.
  Error.stackTraceLimit = 0;
  const deadline = task.timeoutMs === undefined ? undefined : Date.now() + task.timeoutMs;
  const heartbeat = new Heartbeat(task.heartbeat);
  const target = makeTarget(task.target);
  await target.prepare();
  const fuzzer = new Fuzzer(target, {
    seed: task.seed,
    corpus: task.corpus,
    onInput: (input) => heartbeat.beat(formatInput(input)),
  });
  await fuzzer.replay(task.corpus);
  let told = 0;
  for (let left = task.count; left > 0 && fuzzer.findings.length < mostFindings; left -= batch) {
    if (deadline !== undefined && Date.now() >= deadline) break;
    await fuzzer.run(Math.min(batch, left));
    for (; told < fuzzer.findings.length; told++) {
      tell({ kind: 'finding', finding: fuzzer.findings[told]! });
    }
  }
  const { inputs, mutations, answers, findings } = fuzzer;
  const corpus = fuzzer.corpus.map(formatInput);
  tell({ kind: 'done', done: { target: task.target, inputs, mutations, answers, findings, corpus } });
}

if (parentPort !== null) {
  const port = parentPort;
  await work(workerData as WorkerTask, (message) => port.postMessage(message));
}
