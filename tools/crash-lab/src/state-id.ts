/**
 * The name of a crash state, from which alone it is made again:
 *
 *     journal+backing/wf@5.1k           system, workload, crash point, state number in its space (base 36)
 *     journal+backing/wf@5.1k~2.0       … and a second crash in the recovery from that, at its point 2
 *     journal/wf@5.K~2.0                the process is killed at crash point 5; a crash at point 2 of the recovery
 *     journal!swallow-flush_data/r7.3@12.9   on a mutated device; random workload 3 of seed 7
 *     journal/wf@5.1k:of@3.2            after the recovery from that the guest went on with `of`: a crash in its second life
 */
import { StateError } from '@qcow2/spec';

/** A crash point and the number of a state in its space. */
export interface CrashStep {
  readonly point: number;
  /** `killed`: nothing is lost here, only the process dies (`kill-point.ts`). */
  readonly state: bigint | 'killed';
}

/** A workload, the crash in it, and those in the recoveries that followed. At least one. */
export interface LifeSteps {
  readonly workload: string;
  readonly steps: readonly CrashStep[];
}

export interface StateId extends LifeSteps {
  readonly system: string;
  readonly mutation: string | undefined;
  /** What the guest did after the last of these recoveries, and where that crashed. */
  readonly later?: LifeSteps | undefined;
}

export function formatStateId(id: StateId): string {
  const mutation = id.mutation === undefined ? '' : `!${id.mutation}`;
  const later = id.later === undefined ? '' : `:${formatLife(id.later)}`;
  return `${id.system}${mutation}/${formatLife(id)}${later}`;
}

function formatLife({ workload, steps }: LifeSteps): string {
  const text = steps.map(({ point, state }) => `${point}.${state === 'killed' ? 'K' : state.toString(36)}`);
  return `${workload}@${text.join('~')}`;
}

const life = /([\w.]*)@(\d+\.(?:[0-9a-z]+|K)(?:~\d+\.[0-9a-z]+)*)/.source;
const stateId = new RegExp(`^([\\w+-]+)(?:!([\\w-]+))?/${life}(?::${life})?$`);

/** @throws INVALID_ARGUMENT for anything that `formatStateId` does not make */
export function parseStateId(text: string): StateId {
  const parts = stateId.exec(text);
  if (parts === null) throw new StateError('INVALID_ARGUMENT', 'not the id of a state', { value: text });
  const [, system, mutation, workload, steps, laterWorkload, laterSteps] = parts;
  const later =
    laterSteps === undefined ? undefined : { workload: laterWorkload!, steps: parseSteps(laterSteps) };
  return { system: system!, mutation, workload: workload!, steps: parseSteps(steps!), later };
}

function parseSteps(text: string): CrashStep[] {
  return text.split('~').map((step) => {
    const [point, state] = step.split('.');
    return { point: Number(point), state: state === 'K' ? ('killed' as const) : parseBase36(state!) };
  });
}

function parseBase36(digits: string): bigint {
  let value = 0n;
  for (const digit of digits) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value;
}
