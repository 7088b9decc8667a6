import { expect, test } from 'vitest';
import { checkCacheMode } from './cache-modes.ts';
import { Bar, JsonLines, Progress, QemuLine } from './progress.ts';

function shown(total: number, steps: readonly number[]): string[] {
  let text = '';
  const line = new QemuLine((part) => {
    text += part;
  });
  const progress = new Progress(line, total);
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

const mib = 1 << 20;

test('on a terminal a bar shows rate and time left, as often as somebody looks', () => {
  let text = '';
  let now = 0;
  const bar = new Bar(
    (part) => {
      text += part;
    },
    60,
    () => now,
  );
  const progress = new Progress(bar, 100 * mib);
  for (; now < 2000; now += 10) progress.advance(mib / 4);
  progress.complete();
  progress.end();
  const lines = text.replaceAll('\u001b[K', '').trim().split('\r');
  expect(lines.length).toBe(21);
  expect(lines[0]).toBe('[--------------------]   0.0 %');
  expect(lines[15]).toBe('[#######-------------]  37.8 %  25.2 MiB/s  0:03 left');
  expect(lines.at(-1)).toBe('[####################] 100.0 %  50 MiB/s  0:02');
});

test('for programs there are lines of JSON, the last one of the end', () => {
  let text = '';
  let now = 0;
  const lines = new JsonLines(
    (part) => {
      text += part;
    },
    () => now,
  );
  const progress = new Progress(lines, 400);
  for (; now < 2000; now += 100) progress.advance(10);
  progress.complete();
  progress.end();
  const shown = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(shown.length).toBe(5);
  expect(shown[1]).toEqual({ done: 60, total: 400, percent: 15, seconds: 0.5 });
  expect(shown.at(-1)).toEqual({ done: 400, total: 400, percent: 100, seconds: 2 });
});
