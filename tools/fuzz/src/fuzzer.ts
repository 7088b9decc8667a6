/**
 * One target, input after input. An input whose answer (errors with their clauses and fields, counts by order of
 * magnitude) was not seen before joins the corpus, and half of all inputs are a member of the corpus with one more
 * step. That is all the guidance there is: cheap, and the same for the same seed.
 */
import { AllocationGuard } from './allocation-guard.ts';
import { type FuzzInput, formatInput } from './input.ts';
import { hashText, Random } from './random.ts';
import { type Target, Verdict } from './target.ts';

export interface Finding {
  readonly input: string;
  readonly text: string;
}

export interface FuzzerOptions {
  readonly seed: number;
  readonly corpus: readonly FuzzInput[];
  /** Told before each input is run: a watchdog keeps it. */
  readonly onInput?: (input: FuzzInput) => void;
}

/** Members of the corpus that a run keeps; a new one then takes the place of an old one. */
const mostKept = 4096;
const mostSteps = 8;

export class Fuzzer {
  readonly #target: Target;
  readonly #options: FuzzerOptions;
  readonly #random: Random;
  readonly #guard = new AllocationGuard();
  /** Answers, by hash: a campaign sees millions. */
  readonly #seen = new Set<number>();
  readonly #corpus: FuzzInput[];
  readonly findings: Finding[] = [];
  inputs = 0;
  mutations = 0;

  /** The target is prepared. */
  constructor(target: Target, options: FuzzerOptions) {
    this.#target = target;
    this.#options = options;
    this.#random = new Random(options.seed ^ hashText(target.name));
    this.#corpus = [...options.corpus];
  }

  /** Answers seen so far. */
  get answers(): number {
    return this.#seen.size;
  }

  /** Inputs that gave an answer first, those given at the start included. */
  get corpus(): readonly FuzzInput[] {
    return this.#corpus;
  }

  /** Run `count` new inputs. */
  async run(count: number): Promise<void> {
    this.#guard.install();
    try {
      for (let done = 0; done < count; done++) {
        const input = this.#draw();
        const answer = await this.#one(input);
        if (answer === undefined) continue;
        const hash = hashText(answer);
        if (this.#seen.has(hash)) continue;
        this.#seen.add(hash);
        if (this.#corpus.length < mostKept) this.#corpus.push(input);
        else this.#corpus[this.#random.below(mostKept)] = input;
      }
    } finally {
      this.#guard.uninstall();
    }
  }

  /** Run inputs that are given. @returns their answers; undefined for one that is a finding */
  async replay(inputs: readonly FuzzInput[]): Promise<(string | undefined)[]> {
    const answers: (string | undefined)[] = [];
    this.#guard.install();
    try {
      for (const input of inputs) {
        const answer = await this.#one(input);
        if (answer !== undefined) this.#seen.add(hashText(answer));
        answers.push(answer);
      }
      return answers;
    } finally {
      this.#guard.uninstall();
    }
  }

  #draw(): FuzzInput {
    const random = this.#random;
    const { name, bases } = this.#target;
    if (this.#corpus.length === 0 || random.chance(2)) {
      const steps = Array.from({ length: 1 + random.below(3) }, () => random.next());
      return { target: name, base: random.pick(bases), steps };
    }
    const parent = random.pick(this.#corpus);
    const steps = [...parent.steps];
    if (steps.length >= mostSteps || (steps.length > 1 && random.chance(6)))
      steps.splice(random.below(steps.length), 1);
    steps.splice(random.below(steps.length + 1), 0, random.next());
    return { ...parent, steps };
  }

  async #one(input: FuzzInput): Promise<string | undefined> {
    const target = this.#target;
    this.#options.onInput?.(input);
    this.inputs++;
    this.mutations += input.steps.length;
    const verdict = new Verdict();
    this.#guard.arm(undefined);
    target.load(input.base);
    let mixed = 0x2545f491;
    for (const step of input.steps) {
      target.mutate(new Random(step));
      mixed = Math.imul(mixed ^ step, 0x9e3779b1) >>> 0;
    }
    target.seal(new Random(mixed));
    this.#guard.arm(target.limits);
    try {
      const done = target.run(new Random(mixed ^ 0x55555555).next(), verdict);
      if (done !== undefined) await done;
    } catch (error) {
      verdict.error('run', error);
    }
    if (this.#guard.exceeded)
      verdict.finding(`too much memory asked for, ${this.#guard.allocatedBytes} bytes in all`);
    if (verdict.findings.length === 0) return `${input.base}:${verdict.signature}`;
    for (const text of verdict.findings) this.findings.push({ input: formatInput(input), text });
    return undefined;
  }
}
