/**
 * What a run of the lab goes through, cut into jobs: every sequence of up to three operations on every small
 * system, and random workloads on all. Jobs of one system are done by one explorer, which recovers an image
 * once however many of them lead to it.
 */
import { Explorer, emptyTally, type Failure, type Tally } from './explorer.ts';
import type { DeviceMutation } from './mutation.ts';
import { QemuCheck } from './qemu-check.ts';
import type { SystemUnderTest } from './system-under-test.ts';
import { type LabSystem, labSystem, labSystems, type Mode } from './systems.ts';
import { type RandomKind, randomWorkload, sequences } from './workload.ts';

export type Job =
  | { readonly kind: 'sequences'; readonly system: string; readonly length: number }
  /** Random workloads, from where the last such job of the system ended, until `states` states have been looked at. */
  | { readonly kind: 'random'; readonly system: string; readonly states: number };

export interface CampaignOptions {
  readonly seed: number;
  readonly mode: Mode;
  /** Only these, of that mode. */
  readonly systems?: readonly string[] | undefined;
  /** States of random workloads, in all. */
  readonly randomStates: number;
  /** Longest sequences to go through. */
  readonly length: number;
  readonly bound: number;
  readonly samplesPerPoint: number;
  readonly secondCrashOneIn: number;
  readonly killOneIn: number;
  readonly secondLifeOneIn: number;
  /** Show one recovered image in so many to qemu-img; 0 for none. */
  readonly qemuOneIn: number;
  readonly mutation?: DeviceMutation | undefined;
}

export const defaultCampaign: CampaignOptions = {
  seed: 1,
  mode: 'all',
  randomStates: 10_000,
  length: 3,
  bound: 4096,
  samplesPerPoint: 64,
  secondCrashOneIn: 16,
  killOneIn: 8,
  secondLifeOneIn: 64,
  qemuOneIn: 512,
};

/** Sampled states of a crash point of a random workload. */
const statesPerRandomPoint = 3;

/** The jobs of a campaign, those that find most in little time first. */
export function jobsOf(options: CampaignOptions): Job[] {
  const { systems } = options;
  const all = labSystems.filter(
    ({ mode, name }) =>
      (options.mode === 'all' || options.mode === mode) && (systems === undefined || systems.includes(name)),
  );
  const jobs: Job[] = [];
  const addSequences = (length: number) => {
    if (length > options.length) return;
    for (const { name, exhaustive } of all) {
      if (exhaustive) jobs.push({ kind: 'sequences', system: name, length });
    }
  };
  addSequences(1);
  addSequences(2);
  const small = all.filter(({ isLarge }) => isLarge !== true);
  const states = Math.ceil(options.randomStates / Math.max(1, small.length));
  if (states > 0) for (const { name } of small) jobs.push({ kind: 'random', system: name, states });
  addSequences(3);
  return jobs;
}

/**
 * The jobs for so many threads. All jobs of a system in one thread: what it has recovered it does not recover again.
 * The heaviest systems are given out first, each to the thread that has least to do.
 */
export function shareJobs(jobs: readonly Job[], threads: number): Job[][] {
  const shares = Array.from({ length: Math.max(1, threads) }, () => ({
    weight: 0,
    systems: new Set<string>(),
  }));
  const systems = [...new Set(jobs.map(({ system }) => system))].map(labSystem);
  for (const { name, weight } of systems.sort((left, right) => right.weight - left.weight)) {
    const share = shares.reduce((least, one) => (one.weight < least.weight ? one : least));
    share.weight += weight;
    share.systems.add(name);
  }
  return shares.map((share) => jobs.filter(({ system }) => share.systems.has(system)));
}

/** A system on the bench, with everything that is kept about it between jobs. */
interface Bench {
  readonly system: SystemUnderTest;
  readonly explorer: Explorer;
  readonly qemu: QemuCheck | undefined;
  nextRandom: number;
}

/** Does jobs, one after the other, and keeps an explorer for each system that it meets. */
export class JobRunner {
  readonly #options: CampaignOptions;
  readonly #isOver: () => boolean;
  readonly #onFailure: (failure: Failure) => void;
  readonly #benches = new Map<string, Bench>();

  constructor(options: CampaignOptions, isOver: () => boolean, onFailure: (failure: Failure) => void) {
    this.#options = options;
    this.#isOver = isOver;
    this.#onFailure = onFailure;
  }

  /** True where the job was done whole. */
  async run(job: Job): Promise<boolean> {
    const bench = this.#benchOf(labSystem(job.system));
    if (job.kind === 'sequences') await this.#runSequences(bench, job.length);
    else await this.#runRandom(bench, job.states);
    return !this.#isOver();
  }

  /** The sum over all systems so far. */
  tally(): Tally {
    const sum = emptyTally();
    for (const { explorer } of this.#benches.values()) addTally(sum, explorer.tally);
    return sum;
  }

  close(): void {
    for (const { qemu } of this.#benches.values()) qemu?.close();
  }

  async #runSequences({ system, explorer }: Bench, length: number): Promise<void> {
    const secondCrashes = length === 1 ? 'all' : 'some';
    for (const workload of sequences(system, length)) {
      if (this.#isOver()) return;
      await explorer.explore(workload, { fromOperation: length - 1, states: 'all', secondCrashes });
    }
  }

  async #runRandom(bench: Bench, states: number): Promise<void> {
    const { system, explorer } = bench;
    const enough = explorer.tally.states + states;
    // A system that can not even run its workloads would never get to its states.
    let attempts = 10 + states;
    while (explorer.tally.states < enough && attempts-- > 0 && !this.#isOver()) {
      const turn = bench.nextRandom++;
      const kinds = randomKinds(system);
      const number = Math.floor(turn / kinds.length);
      const workload = randomWorkload(system, this.#options.seed, number, kinds[turn % kinds.length]);
      await explorer.explore(workload, {
        fromOperation: 0,
        states: statesPerRandomPoint,
        secondCrashes: 'some',
      });
    }
  }

  #benchOf(entry: LabSystem): Bench {
    const known = this.#benches.get(entry.name);
    if (known !== undefined) return known;
    const { qemuOneIn } = this.#options;
    const qemu = qemuOneIn === 0 || !entry.isForQemu ? undefined : QemuCheck.find(qemuOneIn, entry.files());
    const system = entry.make();
    const explorer = new Explorer(system, {
      ...this.#options,
      qemu,
      onFailure: this.#onFailure,
      isOver: this.#isOver,
    });
    const bench = { system, explorer, qemu, nextRandom: 0 };
    this.#benches.set(entry.name, bench);
    return bench;
  }
}

/** Every system is read, and comes to rest, in some of its workloads; its disk grows where its letters say so. */
function randomKinds({ letters, bitmaps }: SystemUnderTest): readonly RandomKind[] {
  const others = (['g', 'n'] as const).filter((kind) => letters.includes(kind));
  return ['r', ...others, ...(bitmaps === undefined ? [] : (['b'] as const)), 'm'];
}

export function addTally(sum: Tally, more: Tally): void {
  for (const name of Object.keys(sum) as (keyof Tally)[]) sum[name] += more[name];
}
