import { describe, expect, it } from 'vitest';
import { BenchmarkFailure } from './failure.ts';
import { parseCommandLine } from './options.ts';

const print = (): void => {};

describe('command line', () => {
  it('takes nbd and nine rounds where nothing is said', () => {
    const { name, options } = parseCommandLine([], print);
    expect(name).toBe('nbd');
    expect(options).toMatchObject({ quick: false, rounds: 9, folder: undefined });
    expect(options.command).toMatch(/tools\/cli\/qcow2$/);
  });

  it('takes a benchmark with its options in any order', () => {
    const { name, options } = parseCommandLine(
      ['--quick', 'flush-rate', '--rounds', '3', '--folder', '/x'],
      print,
    );
    expect(name).toBe('flush-rate');
    expect(options).toMatchObject({ quick: true, rounds: 3, folder: '/x' });
    expect(parseCommandLine(['--help'], print).name).toBe('help');
  });

  it('takes names of cases and contenders, as many as are given', () => {
    const { name, options } = parseCommandLine(
      ['benefit', '--only', 'a', '--only', 'b', '--without', 'c', '--write-docs'],
      print,
    );
    expect(name).toBe('benefit');
    expect(options).toMatchObject({
      rounds: 7,
      only: ['a', 'b'],
      without: ['c'],
      writeDocs: true,
      stored: false,
    });
  });

  it.each([[['no-such']], [['nbd', 'nbd']], [['--rounds', '0']], [['--rounds', 'x']], [['--fast']]])(
    'refuses %j',
    (args) => {
      expect(() => parseCommandLine(args, print)).toThrow(BenchmarkFailure);
    },
  );
});
