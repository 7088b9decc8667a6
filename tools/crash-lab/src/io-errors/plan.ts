/** Which cases there are: all short sequences, some longer workloads, one request at a time. */
import type { LabSystem } from '../systems.ts';
import { randomWorkload, sequences, type Workload } from '../workload.ts';
import { type CaseFailure, type FaultTally, IoErrors, optionsFor } from './io-errors.ts';

export interface Plan {
  readonly systems: readonly LabSystem[];
  /** All sequences of 1 up to so many operations. */
  readonly length: number;
  /** How many longer workloads. */
  readonly random: number;
  readonly seed: number;
  /** Every `parts`th case, from number `part` on. */
  readonly part: number;
  readonly parts: number;
  readonly isOver?: () => boolean;
  readonly onFailure: (failure: CaseFailure) => void;
  readonly onSystem?: (name: string, tally: FaultTally) => void;
}

export async function everyCase(plan: Plan): Promise<{ tally: FaultTally; complete: boolean }> {
  const tally = { cases: 0, disks: 0 };
  let number = 0;
  for (const entry of plan.systems) {
    const errors = new IoErrors(entry.make(), optionsFor(entry));
    let told = 0;
    for (const workload of workloadsOf(entry, plan)) {
      for (const one of await errors.casesOf(workload)) {
        if (number++ % plan.parts !== plan.part) continue;
        if (plan.isOver?.() === true) return { tally: sum(tally, errors.tally), complete: false };
        await errors.run(one);
      }
      for (; told < errors.failures.length; told++) plan.onFailure(errors.failures[told]!);
    }
    tally.cases += errors.tally.cases;
    tally.disks += errors.tally.disks;
    plan.onSystem?.(entry.name, tally);
  }
  return { tally, complete: true };
}

function sum(left: FaultTally, right: FaultTally): FaultTally {
  return { cases: left.cases + right.cases, disks: left.disks + right.disks };
}

function* workloadsOf(entry: LabSystem, plan: Plan): Generator<Workload> {
  const system = entry.make();
  for (let length = 1; length <= plan.length; length++) yield* sequences(system, length);
  for (let number = 0; number < plan.random; number++) {
    yield randomWorkload(system, plan.seed, number);
  }
}
