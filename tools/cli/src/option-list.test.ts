import { describe, expect, it } from 'vitest';
import { asksForHelp, joinLists, type ListedOption, parseOptionList } from './option-list.ts';

const options: readonly ListedOption[] = [
  { name: 'size', type: 'size', help: '' },
  { name: 'bits', type: 'number', help: '' },
  { name: 'lazy', type: 'bool', help: '' },
  { name: 'file', type: 'string', help: '' },
];
const valuesOf = (list: string) =>
  Object.fromEntries([...parseOptionList(options, list, 'x')].map(([name, { value }]) => [name, value]));

describe('parseOptionList', () => {
  it('reads values by their type, later ones winning', () => {
    expect(valuesOf('size=4k,bits=0x10,lazy=on,file=a,,b,size=8k')).toEqual({
      size: 8192n,
      bits: 16n,
      lazy: true,
      file: 'a,b',
    });
  });

  it('takes a bare name for on, after "no" for off', () => {
    expect(valuesOf('lazy')).toEqual({ lazy: true });
    expect(valuesOf('nolazy')).toEqual({ lazy: false });
    expect(valuesOf('file')).toEqual({ file: 'on' });
  });

  it.each(['on', 'yes', 'true', 'y'])('%s is on', (text) =>
    expect(valuesOf(`lazy=${text}`)).toEqual({ lazy: true }),
  );
  it.each(['off', 'no', 'false', 'n'])('%s is off', (text) => {
    expect(valuesOf(`lazy=${text}`)).toEqual({ lazy: false });
  });

  it('reads octal and wraps a sign around, as strtoull', () => {
    expect(valuesOf('bits=010')).toEqual({ bits: 8n });
    expect(valuesOf('bits=-1')).toEqual({ bits: 2n ** 64n - 1n });
  });

  it.each([
    ['other=1', "x: Invalid parameter 'other'"],
    ['noother', "x: Invalid parameter 'other'"],
    ['=1', "x: Invalid parameter ''"],
    ['lazy=perhaps', "x: Parameter 'lazy' expects 'on' or 'off'"],
    ['bits=x', "x: Parameter 'bits' expects a number"],
    ['bits=99999999999999999999', "x: Value '99999999999999999999' is too large for parameter 'bits'"],
    ['size=x', /^x: Parameter 'size' expects a non-negative number below 2\^64\nOptional suffix/],
  ])('refuses %s', (list, message) => {
    expect(() => valuesOf(list)).toThrow(message);
  });
});

describe('joinLists', () => {
  it('puts lists together', () => {
    expect(joinLists(['a=1', 'b=2,c=3'])).toBe('a=1,b=2,c=3');
    expect(joinLists(['a=x,,', 'b=2'])).toBe('a=x,,,b=2');
  });

  it.each(['', ',', ',a=1', 'a=1,', ',,'])('refuses %j, which would run into its neighbour', (list) => {
    expect(() => joinLists([list])).toThrow(`Invalid option list: ${list}`);
  });
});

describe('asksForHelp', () => {
  it('finds help and ? among other options', () => {
    expect(asksForHelp('help')).toBe(true);
    expect(asksForHelp('size=1,?')).toBe(true);
    expect(asksForHelp('file=help')).toBe(false);
    expect(asksForHelp('')).toBe(false);
  });
});
