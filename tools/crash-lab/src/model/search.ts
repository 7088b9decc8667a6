/**
 * Breadth first through every state that the bounds allow, each once, by a hash of all that it is. The first thing that is
 * broken ends the search, with the shortest way that leads there.
 */
import type { Bounds, Model } from './model.ts';
import { hashOf, type State } from './state.ts';

interface Node {
  readonly state: State;
  readonly name: string;
  readonly parent: Node | undefined;
}

export interface SearchResult {
  readonly states: number;
  /** Steps that were looked at: crashes, each with one disk, among them. */
  readonly steps: number;
  readonly crashes: number;
  /** The longest way to a state that is the shortest way there. */
  readonly depth: number;
  readonly broken?: { readonly what: string; readonly trace: readonly string[] };
}

export interface SearchOptions {
  /** Told now and then; true ends the search. */
  readonly onProgress?: (states: number, waiting: number) => boolean;
}

export function search(model: Model, options: SearchOptions = {}): SearchResult {
  const seen = new Set<number>();
  const first: Node = { state: model.initial(), name: 'initial', parent: undefined };
  seen.add(hashOf(first.state));
  let waiting: Node[] = [first];
  let steps = 0;
  let crashes = 0;
  let depth = 0;
  while (waiting.length > 0) {
    const reached: Node[] = [];
    for (const node of waiting) {
      for (const { name, state, broken } of model.steps(node.state)) {
        steps++;
        if (name.startsWith('crash')) crashes++;
        const what = broken ?? (state === undefined ? undefined : model.broken(state));
        if (what !== undefined) {
          return {
            states: seen.size,
            steps,
            crashes,
            depth,
            broken: { what, trace: [...traceOf(node), name] },
          };
        }
        const hash = hashOf(state!);
        if (seen.has(hash)) continue;
        seen.add(hash);
        reached.push({ state: state!, name, parent: node });
      }
    }
    if (reached.length > 0) depth++;
    waiting = reached;
    if (options.onProgress?.(seen.size, waiting.length) === true) break;
  }
  return { states: seen.size, steps, crashes, depth };
}

function traceOf(node: Node): string[] {
  const names: string[] = [];
  for (let at: Node | undefined = node; at !== undefined; at = at.parent) names.unshift(at.name);
  return names;
}

/** What the tests search completely. */
export const testBounds: Bounds = {
  ringBlocks: 4,
  cells: 2,
  recordBlocks: 2,
  commits: 3,
  crashes: 1,
  kills: 1,
};
