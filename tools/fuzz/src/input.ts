/**
 * What an input is made of: a base (bytes that a target makes the same way each time) and steps, each a seed
 * that draws one mutation of what the steps before left. So an input is a line of text, a corpus is a list of
 * lines, and the line alone brings the input back.
 *
 *     log/wrapped:1f3a90c2.77
 */
import { StateError } from '@qcow2/spec';

export interface FuzzInput {
  readonly target: string;
  readonly base: string;
  /** 32-bit seeds. */
  readonly steps: readonly number[];
}

export function formatInput({ target, base, steps }: FuzzInput): string {
  return `${target}/${base}:${steps.map((step) => step.toString(16)).join('.')}`;
}

/** @throws INVALID_ARGUMENT where the text is no input */
export function parseInput(text: string): FuzzInput {
  const parts = /^([\w-]+)\/([\w+-]+):((?:[0-9a-f]{1,8}(?:\.[0-9a-f]{1,8})*)?)$/.exec(text.trim());
  if (parts === null) {
    throw new StateError('INVALID_ARGUMENT', 'not the id of an input', { field: 'input', value: text });
  }
  const steps = (parts[3] ?? '').split('.').filter((step) => step !== '');
  return {
    target: parts[1] ?? '',
    base: parts[2] ?? '',
    steps: steps.map((step) => Number.parseInt(step, 16)),
  };
}

/** The lines of a corpus; empty ones and those that begin with `#` are left out. */
export function parseCorpus(text: string): FuzzInput[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.startsWith('#'))
    .map(parseInput);
}
