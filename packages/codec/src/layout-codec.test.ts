import { defineLayout, InvariantError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { refusal } from '../test/support/samples.ts';
import { compileLayout } from './layout-codec.ts';

const sample = defineLayout({
  name: 'sample',
  document: 'qcow2',
  clause: 'TST-001',
  sizeBytes: 48,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x51], clause: 'TST-002' },
    { name: 'small', at: 4, type: 'u8', min: 2, max: 9, clause: 'TST-003' },
    { name: 'zero', at: 5, type: 'u8', reserved: 'must-be-zero', clause: 'TST-004' },
    { name: 'half', at: 6, type: 'u16', clause: 'TST-005' },
    { name: 'offset', at: 8, type: 'u64', multipleOf: 'cluster', clause: 'TST-006' },
    { name: 'mask', at: 16, type: 'mask64', sinceVersion: 3, clause: 'TST-007' },
    { name: 'kept', at: 24, type: 'bytes', lengthBytes: 4, reserved: 'preserved', clause: 'TST-008' },
    { name: 'skipped', at: 28, type: 'bytes', lengthBytes: 4, reserved: 'ignored', clause: 'TST-009' },
    { name: 'late', at: 32, type: 'u64', optional: true, multipleOf: 8, clause: 'TST-010' },
    { name: 'nothing', at: 40, type: 'bytes', lengthBytes: 8, reserved: 'must-be-zero', clause: 'TST-011' },
  ],
});
const codec = compileLayout(sample);
const value = () => ({
  magic: 0x51,
  small: 7,
  half: 0xabcd,
  offset: 0x1f_ffff_fff0_0000,
  mask: 0x8000_0000_0000_0001n,
  kept: Uint8Array.of(1, 2, 3, 4),
  late: 8,
});

describe('a compiled layout', () => {
  it('puts every field at its place, big-endian, and takes it back', () => {
    const bytes = codec.encode(value());
    expect(bytes).toEqual(
      Uint8Array.from([
        0, 0, 0, 0x51, 7, 0, 0xab, 0xcd, 0, 0x1f, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1, 1,
        2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0,
      ]),
    );
    expect(codec.decode(bytes)).toEqual(value());
  });

  it('encodes into the middle of a buffer and clears what is reserved', () => {
    const into = new Uint8Array(64).fill(0xff);
    expect(codec.encode(value(), into, { at: 8 })).toBe(into);
    expect(into.subarray(0, 8).every((byte) => byte === 0xff)).toBe(true);
    expect(into[8 + 5]).toBe(0);
    expect(into.subarray(8 + 28, 8 + 32).every((byte) => byte === 0)).toBe(true);
    expect(codec.decode(into, { at: 8 })).toEqual(value());
  });

  it('gives copies of byte strings', () => {
    const bytes = codec.encode(value());
    const decoded = codec.decode(bytes);
    bytes.fill(0);
    expect(decoded.kept).toEqual(Uint8Array.of(1, 2, 3, 4));
  });

  it('reads fields of a later version as zero and does not write them', () => {
    const bytes = codec.encode(value());
    expect(codec.decode(bytes, { version: 2 }).mask).toBe(0n);
    const into = new Uint8Array(48).fill(0xee);
    codec.encode(value(), into, { version: 2 });
    expect(into[16]).toBe(0xee);
  });

  it('leaves optional fields out where the structure ends before them', () => {
    const short = compileLayout({ ...sample, sizeBytes: 40, fields: sample.fields.slice(0, -1) });
    const bytes = codec.encode(value());
    expect(short.decode(bytes, { endsAt: 39 }).late).toBeUndefined();
    expect(short.decode(bytes, { endsAt: 40 }).late).toBe(8);
  });

  it.each([
    ['a wrong magic number', 3, 0x52, 'BAD_MAGIC', 'TST-002', 0],
    ['a value below the range', 4, 1, 'BAD_FIELD', 'TST-003', 4],
    ['a value above the range', 4, 10, 'BAD_FIELD', 'TST-003', 4],
    ['reserved bytes', 5, 1, 'RESERVED_SET', 'TST-004', 5],
    ['an offset beyond 2^53 - 1', 9, 0x20, 'OFFSET_TOO_LARGE', 'TST-006', 8],
    ['an unaligned offset', 15, 1, 'BAD_ALIGNMENT', 'TST-006', 8],
    ['an unaligned optional field', 39, 9, 'BAD_ALIGNMENT', 'TST-010', 32],
    ['reserved runs', 47, 1, 'RESERVED_SET', 'TST-011', 40],
  ])('refuses %s, and names the absolute place', (_what, at, byte, code, clause, fieldAt) => {
    const bytes = new Uint8Array(16 + 48);
    codec.encode(value(), bytes, { at: 16 });
    bytes[16 + at] = byte;
    const error = refusal(() => codec.decode(bytes, { at: 16, hostOffset: 0x1000, clusterBytes: 512 }));
    expect(error).toMatchObject({ code, clause, hostOffset: 0x1000 + 16 + fieldAt });
  });

  it('refuses a structure that ends early, at the first field that is not whole', () => {
    const bytes = codec.encode(value());
    for (let length = 0; length < bytes.length; length++) {
      const first = sample.fields.find(
        (field) => !('optional' in field) && field.at + sizeOf(field.at) > length,
      );
      const error = refusal(() => codec.decode(bytes.subarray(0, length)));
      expect(error).toMatchObject({ code: 'TRUNCATED', clause: first?.clause });
    }
  });

  it.each([
    ['a value out of range', { small: 1 }],
    ['a negative number', { half: -1 }],
    ['a fraction', { half: 1.5 }],
    ['NaN', { half: Number.NaN }],
    ['too large for its type', { half: 0x10000 }],
    ['an unsafe integer', { offset: 2 ** 53 }],
    ['a mask of 65 bits', { mask: 1n << 64n }],
    ['a negative mask', { mask: -1n }],
    ['a byte string of another length', { kept: new Uint8Array(3) }],
  ])('refuses to encode %s, and writes nothing', (_what, change) => {
    const into = new Uint8Array(48).fill(0x77);
    expect(refusal(() => codec.encode({ ...value(), ...change }, into)).code).toBe('BAD_FIELD');
    expect(into.every((byte) => byte === 0x77)).toBe(true);
  });

  it('refuses to encode into a buffer that is too short, and writes nothing', () => {
    const into = new Uint8Array(47).fill(0x77);
    expect(refusal(() => codec.encode(value(), into)).code).toBe('TRUNCATED');
    expect(into.every((byte) => byte === 0x77)).toBe(true);
  });

  it('does not compile a layout with a gap, an overlap or a wrong size', () => {
    const field = (at: number) => ({ name: `f${at}`, at, type: 'u32' as const, clause: 'TST-001' });
    const layout = (sizeBytes: number, ...ats: number[]) =>
      ({ name: 'x', document: 'qcow2', clause: 'TST-001', sizeBytes, fields: ats.map(field) }) as const;
    expect(() => compileLayout(layout(12, 0, 8))).toThrow(InvariantError);
    expect(() => compileLayout(layout(8, 0, 2))).toThrow(InvariantError);
    expect(() => compileLayout(layout(12, 0, 4))).toThrow(InvariantError);
    expect(compileLayout(layout(8, 0, 4)).layout.sizeBytes).toBe(8);
  });
});

function sizeOf(at: number): number {
  const index = sample.fields.findIndex((field) => field.at === at);
  return (sample.fields[index + 1]?.at ?? sample.sizeBytes) - at;
}
