import { describe, expect, it } from 'vitest';
import { refusal } from '../test/support/samples.ts';
import { refcountCodec } from './refcount-block.ts';

const block = () => new DataView(new ArrayBuffer(512));
const bytesOf = (view: DataView, count: number) => [...new Uint8Array(view.buffer, 0, count)];

describe('refcount blocks', () => {
  it('[RCB-001, HDR-018] hold cluster size times 8 / width refcounts', () => {
    const entries = [0, 1, 2, 3, 4, 5, 6].map((order) => refcountCodec(order).entriesPerBlock(65536));
    expect(entries).toEqual([524288, 262144, 131072, 65536, 32768, 16384, 8192]);
  });

  it.each([
    [0, [1, 0, 0, 0, 0, 0, 0, 1, 1], [0x81, 0x01]],
    [1, [1, 2, 0, 3, 2], [0xc9, 0x02]],
    [2, [1, 15, 7], [0xf1, 0x07]],
  ])('[RCB-003] of order %i fill a byte from its least significant bits', (order, values, expected) => {
    const codec = refcountCodec(order);
    const view = block();
    for (const [index, value] of values.entries()) codec.set(view, index, value);
    expect(bytesOf(view, expected.length)).toEqual(expected);
    expect(values.map((_, index) => codec.get(view, index))).toEqual(values);
  });

  it.each([
    [3, 0xab, [0, 0xab]],
    [4, 0xabcd, [0, 0, 0xab, 0xcd]],
    [5, 0xabcdef01, [0, 0, 0, 0, 0xab, 0xcd, 0xef, 0x01]],
    [6, 0x1f_abcd_ef01_2345, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45]],
  ])('[RCB-004] of order %i are big-endian', (order, value, expected) => {
    const codec = refcountCodec(order);
    const view = block();
    codec.set(view, 1, value);
    expect(bytesOf(view, expected.length)).toEqual(expected);
    expect([codec.get(view, 0), codec.get(view, 1), codec.get(view, 2)]).toEqual([0, value, 0]);
  });

  it.each([0, 1, 2, 3, 4, 5, 6])(
    '[RCB-002] of order %i hold 0 to their maximum and nothing else',
    (order) => {
      const codec = refcountCodec(order);
      const view = block();
      expect(codec.maxValue).toBe(order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1);
      codec.set(view, 3, codec.maxValue);
      expect([2, 3, 4].map((index) => codec.get(view, index))).toEqual([0, codec.maxValue, 0]);
      for (const value of [-1, 0.5, Number.NaN, codec.maxValue + 1]) {
        expect(refusal(() => codec.set(view, 3, value))).toMatchObject({
          code: 'INVALID_ARGUMENT',
          clause: 'RCB-002',
        });
      }
      expect(codec.get(view, 3)).toBe(codec.maxValue);
      codec.set(view, 3, 0);
      expect(bytesOf(view, 512).every((byte) => byte === 0)).toBe(true);
    },
  );

  it('[LIM-016] of 64 bits are refused above 2^53 - 1', () => {
    const view = block();
    view.setBigUint64(8, 2n ** 53n);
    const error = { code: 'LIMIT_EXCEEDED', clause: 'LIM-016', field: 'refcount', hostOffset: 0x20008 };
    expect(refusal(() => refcountCodec(6).get(view, 1, 0x20000))).toEqual(error);
  });

  it('[HDR-018] have an order from 0 to 6', () => {
    for (const order of [-1, 7, 1.5]) expect(refusal(() => refcountCodec(order)).clause).toBe('HDR-018');
  });
});
