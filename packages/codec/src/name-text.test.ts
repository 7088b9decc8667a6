import { describe, expect, it } from 'vitest';
import { ascii, refusal } from '../test/support/samples.ts';
import { decodeName, encodeName } from './name-text.ts';

describe('names', () => {
  it('are UTF-8 where they are that', () => {
    expect(decodeName(ascii('naïve 名 🙂'))).toBe('naïve 名 🙂');
    expect(encodeName('naïve 名 🙂')).toEqual(ascii('naïve 名 🙂'));
  });

  it('keep a byte order mark and a zero', () => {
    const bytes = Uint8Array.of(0xef, 0xbb, 0xbf, 0, 0x41);
    expect(encodeName(decodeName(bytes))).toEqual(bytes);
  });

  it('keep bytes that are not UTF-8, among others that are', () => {
    const bytes = Uint8Array.of(0x41, 0xff, 0xc3, 0xa4, 0xc3, 0x28, 0xf0, 0x9f, 0x99);
    const name = decodeName(bytes);
    expect(name).toBe('A\udcffä\udcc3(\udcf0\udc9f\udc99');
    expect(encodeName(name)).toEqual(bytes);
  });

  it('are refused where a lone surrogate stands for no byte', () => {
    for (const name of ['\ud800', '\udc41', '\udfff']) {
      expect(refusal(() => encodeName(name)).code).toBe('INVALID_ARGUMENT');
    }
  });
});
