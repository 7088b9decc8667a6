import { describe, expect, it } from 'vitest';
import { type Action, mergedFills } from './actions.ts';
import type { Step } from './disk-model.ts';

const step = (kind: Step['kind']): Step => ({ kind, offset: 0, lengthBytes: 65536, fill: 1 });
const fill = (...kinds: Step['kind'][]): Action => ({ kind: 'fill', steps: kinds.map(step) });

describe('phases', () => {
  it('are one where nothing is in between', () => {
    const snapshot: Action = { kind: 'snapshot', name: 'one' };
    const actions = [fill('compressed', 'write'), fill('discard'), snapshot, fill('zero')];
    expect(mergedFills(actions)).toEqual([fill('compressed', 'write', 'discard'), snapshot, fill('zero')]);
  });

  it('never have compressed clusters behind discards of another', () => {
    const actions = [fill('compressed', 'discard', 'write'), fill('compressed', 'discard'), fill('write')];
    expect(mergedFills(actions)).toEqual([actions[0], fill('compressed', 'discard', 'write')]);
  });
});
