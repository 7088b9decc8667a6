import { describe, expect, it } from 'vitest';
import { parseContentRange } from './content-range.ts';

describe('Content-Range', () => {
  it.each([
    ['bytes 0-0/1', { range: { offset: 0, lengthBytes: 1 }, sizeBytes: 1 }],
    [' bytes 5-9/10 ', { range: { offset: 5, lengthBytes: 5 }, sizeBytes: 10 }],
    ['bytes 5-9/*', { range: { offset: 5, lengthBytes: 5 }, sizeBytes: undefined }],
    ['bytes */10', { range: undefined, sizeBytes: 10 }],
  ])('%s', (text, expected) => {
    expect(parseContentRange(text)).toEqual(expected);
  });

  it.each([
    null,
    '',
    'bytes',
    'lines 0-0/1',
    'bytes 0-0',
    'bytes 9-5/10',
    'bytes 5-10/10',
    'bytes 0--1/5',
    'bytes -5/10',
    'bytes 0-9007199254740991/9007199254740992',
    'bytes 0-1/9999999999999999',
    'bytes 0-11111111111111111111/22222222222222222222',
    'bytes 0-0/1, bytes 1-1/1',
  ])('%s is none', (text) => {
    expect(parseContentRange(text)).toBeUndefined();
  });
});
