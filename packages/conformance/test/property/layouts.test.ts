/** Every layout of the specification, without exception: places, ranges, truncations, bit flips. */
import { compileLayout, fieldBytes } from '@qcow2/codec';
import { type Field, FormatError, type Layout, layouts } from '@qcow2/spec';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sampleClusterBytes, sampleValues, type Values } from '../../src/layout-samples.ts';
import { drawFrom } from '../../src/random.ts';

const options = { clusterBytes: sampleClusterBytes, hostOffset: 0x10000 };
const all: readonly Layout[] = Object.values(layouts);
const seeds = fc.nat();

const codecOf = (layout: Layout) => {
  const codec = compileLayout(layout);
  return {
    decode: (bytes: Uint8Array) => codec.decode(bytes, options) as Values,
    encode: (values: Values) => codec.encode(values as never, undefined, options),
  };
};

describe.each(all.map((layout) => [layout.name, layout] as const))('%s', (_, layout) => {
  const codec = codecOf(layout);
  const sample = (seed: number): Values => sampleValues(layout, drawFrom(seed));

  it('decodes to what was encoded', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const values = sample(seed);
        expect(codec.decode(codec.encode(values))).toEqual(values);
      }),
    );
  });

  it('has every field at its bytes and nowhere else, big-endian', () => {
    const bytes = codec.encode(sample(1));
    for (const field of layout.fields) {
      const stored = bytes.subarray(field.at, field.at + fieldBytes(field));
      expect([field.name, [...stored]]).toEqual([field.name, storedBytes(field, sample(1)[field.name])]);
    }
  });

  it('refuses to be cut short anywhere before its optional end', () => {
    const bytes = codec.encode(sample(2));
    const needed = Math.max(0, ...layout.fields.filter((field) => !field.optional).map(endOf));
    for (let length = 0; length < layout.sizeBytes; length++) {
      const decode = () => codec.decode(bytes.slice(0, length));
      if (length < needed) expect(decode).toThrow(expect.objectContaining({ code: 'TRUNCATED' }));
      else expect(decode).not.toThrow();
    }
  });

  it('with any one bit flipped is a value that encodes to the same bytes, or a FormatError that says where', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const whole = codec.encode(sample(seed));
        for (let bit = 0; bit < layout.sizeBytes * 8; bit++) {
          const bytes = whole.slice();
          bytes[bit >>> 3] = (bytes[bit >>> 3] ?? 0) ^ (1 << (bit & 7));
          expectValueOrRefusal(layout, bit >>> 3, bytes, codec);
        }
      }),
      { numRuns: 3 },
    );
  });

  it.each(refusals(layout))('refuses $what with $code', ({ field, value, code }) => {
    const bytes = codec.encode(sample(3));
    bytes.set(storedBytes(field, value), field.at);
    const where = { field: field.name, clause: field.clause, hostOffset: options.hostOffset + field.at };
    expect(() => codec.decode(bytes)).toThrow(
      expect.objectContaining({ code, context: expect.objectContaining(where) }),
    );
  });
});

function expectValueOrRefusal(
  layout: Layout,
  at: number,
  bytes: Uint8Array,
  codec: ReturnType<typeof codecOf>,
): void {
  const field = layout.fields.find((candidate) => at < endOf(candidate));
  try {
    const again = codec.encode(codec.decode(bytes));
    if (field?.reserved !== 'ignored') expect(again).toEqual(bytes);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const hostOffset = options.hostOffset + (field?.at ?? 0);
    expect(error.context).toMatchObject({ field: field?.name, clause: field?.clause, hostOffset });
  }
}

interface Refusal {
  readonly what: string;
  readonly field: Field;
  readonly value: number | bigint | Uint8Array;
  readonly code: string;
}

/** The nearest values that each field must not hold. */
function refusals(layout: Layout): Refusal[] {
  return layout.fields.flatMap((field) => {
    const refused: [string, number | bigint | Uint8Array, string][] = [];
    const size = fieldBytes(field);
    const most = field.type === 'u64' ? Number.MAX_SAFE_INTEGER : 2 ** (size * 8) - 1;
    if (field.reserved === 'must-be-zero') {
      const ones = new Uint8Array(size);
      ones[size - 1] = 1;
      refused.push(['a reserved bit that is set', ones, 'RESERVED_SET']);
    }
    if (field.type === 'u64' && field.reserved === undefined) {
      refused.push(['2^53', 2n ** 53n, 'OFFSET_TOO_LARGE']);
    }
    const unit = field.multipleOf === 'cluster' ? sampleClusterBytes : field.multipleOf;
    if (field.oneOf !== undefined) {
      const other =
        Math.max(...field.oneOf) < most ? Math.max(...field.oneOf) + 1 : Math.min(...field.oneOf) - 1;
      refused.push([`${other}`, other, field.name === 'magic' ? 'BAD_MAGIC' : 'BAD_FIELD']);
    }
    if (field.min !== undefined && field.min > 0)
      refused.push([`${field.min - 1}`, field.min - 1, 'BAD_FIELD']);
    if (field.max !== undefined && field.max < most)
      refused.push([`${field.max + 1}`, field.max + 1, 'BAD_FIELD']);
    if (unit !== undefined && unit > 1) {
      const value = Math.ceil((field.min ?? 0) / unit) * unit + 1;
      refused.push([`${value}, no multiple of ${unit}`, value, 'BAD_ALIGNMENT']);
    }
    return refused.map(([what, value, code]) => ({ what: `${field.name}: ${what}`, field, value, code }));
  });
}

function endOf(field: Field): number {
  return field.at + fieldBytes(field);
}

function storedBytes(field: Field, value: number | bigint | Uint8Array | undefined): number[] {
  const size = fieldBytes(field);
  if (typeof value === 'object') return [...value];
  let rest = BigInt(value ?? 0);
  const bytes: number[] = [];
  for (let i = 0; i < size; i++) {
    bytes.unshift(Number(rest & 0xffn));
    rest >>= 8n;
  }
  return bytes;
}
