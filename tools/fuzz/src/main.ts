/**
 * `pnpm fuzz [--target T] [--count N | --seconds S] [--seed S] [--threads N] [--save N] [--input ID|FILE]`
 *
 * Without a count or a time: a minute. The time is shared out among the targets; a count is for each of them.
 * `--save` keeps at most N inputs of each target that gave an answer of their own. `--input` runs one input, or a file
 * of them, and tells what came. The last line is JSON; exits with 1 where something was found, 2 for a wrong call.
 */
import { existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { runCampaign, type Share } from './campaign.ts';
import { loadCorpus, saveCorpus } from './corpus.ts';
import { Fuzzer } from './fuzzer.ts';
import { type FuzzInput, parseCorpus, parseInput } from './input.ts';
import { makeTarget, targetNames } from './targets.ts';
import type { WorkerDone } from './worker.ts';

async function main(words: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: words.filter((word) => word !== '--'),
    options: {
      target: { type: 'string' },
      count: { type: 'string' },
      seconds: { type: 'string' },
      seed: { type: 'string' },
      threads: { type: 'string' },
      save: { type: 'string' },
      input: { type: 'string' },
    },
  });
  if (values.input !== undefined) return await replay(values.input);
  const names = values.target === undefined ? targetNames : values.target.split(',');
  for (const name of names) makeTarget(name);
  const threads = wholeNumber('--threads', values.threads) ?? 2;
  const count = wholeNumber('--count', values.count);
  const seconds = wholeNumber('--seconds', values.seconds) ?? 60;
  const each = (seconds * 1000 * Math.min(threads, names.length)) / names.length;
  const shares = names.map(
    (target): Share =>
      count === undefined
        ? { target, count: Number.POSITIVE_INFINITY, timeoutMs: each }
        : { target, count, timeoutMs: undefined },
  );
  const started = performance.now();
  let findings = 0;
  const seed = wholeNumber('--seed', values.seed) ?? 1;
  const done = await runCampaign(shares, {
    seed,
    threads,
    corpus: names.flatMap(loadCorpus),
    onFinding: ({ input, text }) => {
      findings++;
      console.log(`FOUND ${input}\n  ${text}`);
    },
  });
  const most = wholeNumber('--save', values.save);
  if (most !== undefined) for (const one of done) await save(one, most);
  tell(done, findings, seed, started);
  return findings === 0 ? 0 : 1;
}

function tell(done: readonly WorkerDone[], findings: number, seed: number, started: number): void {
  const targets = Object.fromEntries(
    done.map(({ target, inputs, mutations, answers }) => [target, { inputs, mutations, answers }]),
  );
  const inputs = done.reduce((sum, one) => sum + one.inputs, 0);
  const mutations = done.reduce((sum, one) => sum + one.mutations, 0);
  const seconds = Number(((performance.now() - started) / 1000).toFixed(1));
  console.log(JSON.stringify({ inputs, mutations, findings, seconds, seed, targets }));
}

/** Keep the shortest inputs of as many answers as fit: each is replayed, and stays if its answer is a new one. */
async function save({ target, corpus }: WorkerDone, most: number): Promise<void> {
  const inputs = corpus.map(parseInput).sort((left, right) => left.steps.length - right.steps.length);
  const made = makeTarget(target);
  await made.prepare();
  const fuzzer = new Fuzzer(made, { seed: 1, corpus: [] });
  const answers = await fuzzer.replay(inputs);
  const seen = new Set<string>();
  const kept = inputs.filter((_, index) => {
    const answer = answers[index];
    if (answer === undefined || seen.has(answer)) return false;
    seen.add(answer);
    return true;
  });
  // Spread over all lengths, so that the deep ones are there too.
  const stride = Math.max(1, kept.length / most);
  saveCorpus(
    target,
    Array.from({ length: Math.min(most, kept.length) }, (_, index) => kept[Math.floor(index * stride)]!),
  );
}

async function replay(text: string): Promise<number> {
  const inputs: FuzzInput[] = existsSync(text) ? parseCorpus(readFileSync(text, 'utf8')) : [parseInput(text)];
  let findings = 0;
  for (const target of new Set(inputs.map((input) => input.target))) {
    const made = makeTarget(target);
    await made.prepare();
    const fuzzer = new Fuzzer(made, { seed: 1, corpus: [] });
    const answers = await fuzzer.replay(inputs.filter((input) => input.target === target));
    for (const answer of answers) if (answer !== undefined) console.log(answer);
    for (const { input, text: what } of fuzzer.findings) console.log(`FOUND ${input}\n  ${what}`);
    findings += fuzzer.findings.length;
  }
  console.log(JSON.stringify({ inputs: inputs.length, findings }));
  return findings === 0 ? 0 : 1;
}

function wholeNumber(field: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) {
    throw new StateError('INVALID_ARGUMENT', 'not a whole number', { field, value: text });
  }
  return Number(text);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Qcow2Error ? error.message : error);
  process.exitCode = 2;
}
