/**
 * What is fuzzed: bases, mutations of them, and a run that asks the code under test and tells what it said.
 *
 * A run never throws for what an input does. Whatever comes out of the code under test goes to a `Verdict`: an error
 * of the project's own classes, with a code, is an answer; everything else is a finding.
 */
import { InvariantError, Qcow2Error } from '@qcow2/spec';
import type { AllocationLimits } from './allocation-guard.ts';
import type { Random } from './random.ts';

export interface Target {
  readonly name: string;
  readonly bases: readonly string[];
  /** What one run may ask for in array buffers. */
  readonly limits: AllocationLimits;
  /** Make the bases, once. */
  prepare(): Promise<void>;
  /** Begin anew with a base. */
  load(base: string): void;
  /** One mutation of what is loaded. */
  mutate(random: Random): void;
  /** All mutations are done: put right what hides them (checksums), as far as the draw says. */
  seal(random: Random): void;
  /** Ask the code under test. @param variant a number to choose among ways of asking */
  run(variant: number, verdict: Verdict): void | Promise<void>;
}

/** What a stage may answer. */
export interface Allowed {
  /** Codes of errors of class state and storage that are an answer here; those of class format always are. */
  readonly codes?: readonly string[];
}

/** What came of one run: how it answered, for the corpus, and what it must not have done. */
export class Verdict {
  readonly findings: string[] = [];
  #answers = '';

  /** How the code answered; inputs with a new answer are kept. */
  get signature(): string {
    return this.#answers;
  }

  note(answer: string): void {
    this.#answers += `${answer};`;
  }

  /** A size as its order of magnitude, so that not every number is a new answer. */
  noteCount(what: string, count: number): void {
    this.note(`${what}${count < 3 ? count : `2^${Math.floor(Math.log2(count))}`}`);
  }

  finding(text: string): void {
    this.findings.push(text);
  }

  /** An error came out of a stage. */
  error(stage: string, error: unknown, allowed: Allowed = {}): void {
    if (!(error instanceof Qcow2Error) || error instanceof InvariantError) {
      this.finding(`${stage}: ${describe(error)}`);
      return;
    }
    const { code, context } = error;
    this.note(`${stage}!${code},${context.clause ?? ''},${context.field ?? ''}`);
    if (code === 'ABORTED') return;
    const isRefusal = error.name === 'FormatError' || error.name === 'UnsupportedFeatureError';
    // A header may come to say that it is encrypted, or that its data stands elsewhere: then what opens it, or which file it is, is asked for.
    const isAnswer =
      isRefusal || code === 'NO_SECRET' || (code === 'NO_POLICY' && context.clause === 'DAT-001');
    if (!isAnswer && !(allowed.codes ?? []).includes(code)) this.finding(`${stage}: ${describe(error)}`);
    if (error.name === 'FormatError' && context.clause === undefined) {
      this.finding(`${stage}: names no clause: ${describe(error)}`);
    }
  }

  /** Run a synchronous stage. @returns what it returns, or undefined where it threw */
  attempt<T>(stage: string, body: () => T, allowed?: Allowed): T | undefined {
    try {
      return body();
    } catch (error) {
      this.error(stage, error, allowed);
      return undefined;
    }
  }

  async attemptAsync<T>(
    stage: string,
    body: () => T | Promise<T>,
    allowed?: Allowed,
  ): Promise<T | undefined> {
    try {
      return await body();
    } catch (error) {
      this.error(stage, error, allowed);
      return undefined;
    }
  }
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return `threw ${String(error)}`;
  const code = error instanceof Qcow2Error ? ` ${error.code}` : '';
  const stack = (error.stack ?? '').split('\n').slice(1, 5).join(' ').replaceAll(/\s+/g, ' ');
  const cause = error.cause === undefined ? '' : ` because ${describe(error.cause)}`;
  return `${error.name}${code}: ${error.message}${cause === '' ? stack : cause}`;
}
