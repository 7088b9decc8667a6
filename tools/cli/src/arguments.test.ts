import { describe, expect, it } from 'vitest';
import { type OptionSpec, parseArguments } from './arguments.ts';

const options: readonly OptionSpec[] = [
  { name: 'format', short: 'f', argument: 'FMT' },
  { name: 'quiet', short: 'q' },
  { name: 'progress', short: 'p', words: ['json'] },
  { name: 'output', argument: 'OUT' },
  { name: 'backing', short: 'b', argument: 'FILE' },
  { name: 'backing-chain' },
  { name: 'object', argument: 'OBJECT', refused: 'there are no secrets yet' },
];
const parse = (...words: string[]) => parseArguments(options, words);

describe('parseArguments', () => {
  it('takes short options apart, bundled, attached, after operands', () => {
    for (const words of [
      ['-q', '-f', 'raw', 'a', 'b'],
      ['a', '-qf', 'raw', 'b'],
      ['-qfraw', 'a', 'b'],
      ['a', 'b', '-fraw', '-q'],
    ]) {
      const args = parse(...words);
      expect(args.has('quiet')).toBe(true);
      expect(args.value('format')).toBe('raw');
      expect(args.operands).toEqual(['a', 'b']);
    }
  });

  it('takes long options whole, shortened, with = and with the next word', () => {
    for (const words of [['--output=json'], ['--output', 'json'], ['--out=json'], ['--ou', 'json']]) {
      expect(parse(...words).value('output')).toBe('json');
    }
    expect(parse('--backing', 'x').value('backing')).toBe('x');
    expect(parse('--backing-').has('backing-chain')).toBe(true);
    expect(parse('--output=').value('output')).toBe('');
  });

  it('keeps every argument of an option, and the last one counts', () => {
    const args = parse('-f', 'raw', '-f', 'qcow2');
    expect(args.values('format')).toEqual(['raw', 'qcow2']);
    expect(args.value('format')).toBe('qcow2');
    expect(parse().value('format')).toBeUndefined();
    expect(parse().values('format')).toEqual([]);
  });

  it('takes a word behind = where an option has some, and no other', () => {
    expect(parse('--progress=json', 'x').value('progress')).toBe('json');
    expect(parse('-p', 'json').value('progress')).toBe('');
    expect(() => parse('--progress=xml')).toThrow("unrecognized option '--progress=xml'");
  });

  it('ends options at --, and takes a lone dash for an operand', () => {
    expect(parse('--', '-q', '--').operands).toEqual(['-q', '--']);
    expect(parse('-', '-q').operands).toEqual(['-']);
  });

  it('lets an argument begin with a dash', () => {
    expect(parse('-f', '-q').value('format')).toBe('-q');
    expect(parse('--output', '--').value('output')).toBe('--');
  });

  it.each([
    [['-x'], "unrecognized option '-x'"],
    [['-qx'], "unrecognized option '-qx'"],
    [['--nothing'], "unrecognized option '--nothing'"],
    [['--quiet=yes'], "unrecognized option '--quiet=yes'"],
    [['--ba'], "unrecognized option '--ba'"],
    [['-f'], "missing argument for option '-f'"],
    [['-qf'], "missing argument for option '-qf'"],
    [['--output'], "missing argument for option '--output'"],
  ])('%j is wrong use', (words, message) => {
    expect(() => parse(...words)).toThrow(expect.objectContaining({ message, hint: true, exitCode: 1 }));
  });

  it('refuses by name what is known and not served', () => {
    expect(() => parse('--object', 'secret')).toThrow(
      "option '--object' is not supported: there are no secrets yet",
    );
  });
});
