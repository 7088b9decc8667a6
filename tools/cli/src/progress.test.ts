import { expect, test } from 'vitest';
import { checkCacheMode } from './cache-modes.ts';
import { Progress } from './progress.ts';

function shown(total: number, steps: readonly number[]): string[] {
  let text = '';
  const progress = new Progress((part) => {
    text += part;
  }, total);
  for (const step of steps) progress.advance(step);
  progress.end();
  return [...text.matchAll(/ {4}\((.*?)\/100%\)\r|(\n)$/g)].map(([, percent, end]) => percent ?? end ?? '');
}

test('progress is shown in steps of more than one per cent, and at the end', () => {
  expect(shown(1000, [5, 5, 1, 489, 500])).toEqual(['0.00', '1.10', '50.00', '100.00', '\n']);
  expect(shown(0, [])).toEqual(['0.00', '\n']);
  expect(shown(3, [1, 5])).toEqual(['0.00', '33.33', '100.00', '\n']);
});

test('QEMU knows these cache modes and no others', () => {
  for (const mode of ['none', 'off', 'directsync', 'writeback', 'unsafe', 'writethrough', undefined]) {
    expect(checkCacheMode(mode, 'cache')).toBeUndefined();
  }
  expect(() => checkCacheMode('fast', 'source cache', 2)).toThrow(
    expect.objectContaining({ message: 'Invalid source cache option: fast', exitCode: 2 }),
  );
});
