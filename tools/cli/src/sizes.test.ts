import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSize, parseSize } from './sizes.ts';

const bytesOf = (text: string) => {
  const size = parseSize(text);
  return typeof size === 'string' ? size : size.bytes;
};

describe('parseSize', () => {
  it.each([
    ['0', 0n],
    ['512', 512n],
    ['1b', 1n],
    ['1B', 1n],
    ['1k', 1024n],
    ['1K', 1024n],
    ['1.5G', 1610612736n],
    ['0.3k', 307n],
    ['1.9999999k', 2048n],
    ['1.', 1n],
    ['1.k', 1024n],
    ['010', 10n],
    ['+5', 5n],
    [' 7', 7n],
    ['0x10', 16n],
    ['0x1B', 27n],
    ['0x10M', 16777216n],
    ['7E', 8070450532247928832n],
    ['18446744073709551615', 2n ** 64n - 1n],
  ])('reads %j', (text, bytes) => {
    expect(bytesOf(text)).toBe(bytes);
  });

  it.each([
    '',
    ' ',
    'k',
    '-1',
    '.5G',
    '1.5',
    '0.1b',
    '1kk',
    '1kB',
    '1 k',
    '1k ',
    '1e3',
    '0x',
    '0x1.8k',
    'nan',
    '1,5G',
  ])('refuses %j', (text) => {
    expect(parseSize(text)).toBe('invalid');
  });

  it.each(['16E', '18446744073709551616', '99999999999999999999999'])('finds %j too large', (text) => {
    expect(parseSize(text)).toBe('too large');
  });

  it('says where a suffix follows a hex number', () => {
    expect(parseSize('0x10k')).toEqual({ bytes: 16384n, hexSuffix: true });
    expect(parseSize('0x10')).toEqual({ bytes: 16n, hexSuffix: false });
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 B'],
    [1, '1 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [1024, '1 KiB'],
    [12800, '12.5 KiB'],
    [197120, '192 KiB'],
    [198144, '194 KiB'],
    [200704, '196 KiB'],
    [1000448, '977 KiB'],
    [2297856, '2.19 MiB'],
    [1073741824, '1 GiB'],
    [1099511627776, '1 TiB'],
    [1023999, '1e+03 KiB'],
  ])('writes %d as %j', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });

  it('never shows more than three digits, and stays within half of the last one', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (bytes) => {
        const [number = '', unit = ''] = formatSize(bytes).split(' ');
        expect(number.replace(/e\+03$|^0\.|\./g, '').replace(/^0+/, '').length).toBeLessThanOrEqual(3);
        const power = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'].indexOf(unit);
        expect(Math.abs(Number(number) * 1024 ** power - bytes)).toBeLessThanOrEqual(bytes * 0.00501);
      }),
    );
  });
});
