/** What is done to the image of a combination, in order: requests of a guest, and in between snapshots and bitmaps. */

import type { SeededRandom } from '@qcow2/seeded';
import type { Combination } from './dimensions.ts';
import type { Step } from './disk-model.ts';
import { drawPhases, type Shape } from './workload.ts';

export interface Fill {
  readonly kind: 'fill';
  readonly steps: readonly Step[];
}

export interface SnapshotAction {
  readonly kind: 'snapshot' | 'apply' | 'delete';
  readonly name: string;
}

/** A new bitmap that records. */
export interface Record {
  readonly kind: 'record';
  readonly name: string;
  readonly granularityBytes: number;
}

/** A new bitmap that does not, with what `source` has by now. */
export interface Keep {
  readonly kind: 'keep';
  readonly name: string;
  readonly granularityBytes: number;
  readonly source: string;
}

export type Action = Fill | SnapshotAction | Record | Keep;

export function drawActions(random: SeededRandom, combination: Combination, shape: Shape): Action[] {
  const { snapshots, bitmaps, compression } = combination;
  const granularityBytes = random.pick([512, 4096, 65536]);
  const [first = [], second = [], third = []] = drawPhases(random, shape, compression !== 'plain');
  const fill = (steps: readonly Step[]): Action => ({ kind: 'fill', steps });
  const taken = (name: string): Action[] => (snapshots === 'snap' ? [{ kind: 'snapshot', name }] : []);
  const record: Action = { kind: 'record', name: 'recording', granularityBytes };
  const keep: Action = { kind: 'keep', name: 'kept', granularityBytes, source: 'recording' };
  const recorded = bitmaps === 'bitmap' ? [record] : [];
  const kept = bitmaps === 'bitmap' ? [keep] : [];
  const between = [fill(second), ...kept, ...taken('two'), ...turnBack(random, combination)];
  return [fill(first), ...recorded, ...taken('one'), ...between, fill(third)];
}

/** Now and then the first snapshot is applied, which nobody does beside bitmaps, or deleted. */
function turnBack(random: SeededRandom, { snapshots, bitmaps }: Combination): Action[] {
  if (snapshots === 'nosnap') return [];
  const kind = random.pick(['none', 'delete', bitmaps === 'bitmap' ? 'none' : 'apply'] as const);
  return kind === 'none' ? [] : [{ kind, name: 'one' }];
}

/**
 * Phases with nothing in between are one: a process less. But not where the later one compresses: QEMU 7.2 packs the first compressed
 * cluster behind the last one that the same process wrote, also where that was given back meanwhile and holds data now.
 */
export function mergedFills(actions: readonly Action[]): Action[] {
  const merged: Action[] = [];
  for (const action of actions) {
    const last = merged.at(-1);
    if (action.kind !== 'fill' || last?.kind !== 'fill' || compresses(action)) merged.push(action);
    else merged[merged.length - 1] = { kind: 'fill', steps: [...last.steps, ...action.steps] };
  }
  return merged;
}

function compresses({ steps }: Fill): boolean {
  return steps.some(({ kind }) => kind === 'compressed');
}
