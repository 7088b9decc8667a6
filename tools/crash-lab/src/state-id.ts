/**
 * The name of a crash state, from which alone it is made again:
 *
 *     journal+backing/wf@5.1k           system, workload, crash point, state number in its space (base 36)
 *     journal+backing/wf@5.1k~2.0       … and a second crash in the recovery from that, at its point 2
 *     journal/wf@5.K~2.0                the process is killed at crash point 5; a crash at point 2 of the recovery
 *     journal!swallow-flush_data/r7.3@12.9   on a mutated device; random workload 3 of seed 7
 */
import { StateError } from '@qcow2/spec';

/** A crash point and the number of a state in its space. */
export interface CrashStep {
  readonly point: number;
  /** `killed`: nothing is lost here, only the process dies (`kill-point.ts`). */
  readonly state: bigint | 'killed';
}

export interface StateId {
  readonly system: string;
  readonly mutation: string | undefined;
  readonly workload: string;
  /** The crash in the workload, then those in the recoveries that followed. At least one. */
  readonly steps: readonly CrashStep[];
}

export function formatStateId(id: StateId): string {
  const steps = id.steps
    .map(({ point, state }) => `${point}.${state === 'killed' ? 'K' : state.toString(36)}`)
    .join('~');
  return `${id.system}${id.mutation === undefined ? '' : `!${id.mutation}`}/${id.workload}@${steps}`;
}

/** @throws INVALID_ARGUMENT for anything that `formatStateId` does not make */
export function parseStateId(text: string): StateId {
  const parts = /^([\w+-]+)(?:!([\w-]+))?\/([\w.]*)@(\d+\.(?:[0-9a-z]+|K)(?:~\d+\.[0-9a-z]+)*)$/.exec(text);
  if (parts === null) throw new StateError('INVALID_ARGUMENT', 'not the id of a state', { value: text });
  const [, system, mutation, workload, steps] = parts;
  return {
    system: system!,
    mutation,
    workload: workload!,
    steps: steps!.split('~').map((step) => {
      const [point, state] = step.split('.');
      return { point: Number(point), state: state === 'K' ? ('killed' as const) : parseBase36(state!) };
    }),
  };
}

function parseBase36(digits: string): bigint {
  let value = 0n;
  for (const digit of digits) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value;
}
