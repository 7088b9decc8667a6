/** Truncations and bit flips of every golden vector, through the codecs: a value, or a FormatError that says where. */
import { FormatError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { walkImage } from '../../src/image-walk.ts';
import { type Mutation, mutations, withMutation } from '../../src/mutations.ts';
import { readDocument } from '../../src/repository.ts';
import { loadVector, sha256, vectorNames } from '../../src/vector.ts';

const seed = 0x51434f57;
/** Enough for what a flipped bit can reach; a table of four million entries is not read a thousand times. */
const entriesPerTable = 4096;
const clauses = new Set(readDocument('qcow2').clauses.map((clause) => clause.id));

interface Outcome {
  readonly mutation: string;
  readonly fault: string;
}

describe.each(vectorNames())(`%s, seed ${seed}`, (name) => {
  const vector = loadVector(name);
  const all = mutations(vector, seed);
  const outcomesOf = (kind: Mutation['kind']): Outcome[] =>
    all.filter((mutation) => mutation.kind === kind).flatMap((mutation) => faultOf(vector.bytes, mutation));

  it('cut short anywhere is refused with a place, or reads', () => {
    expect(outcomesOf('truncation')).toEqual([]);
  });

  it('with one bit flipped is refused with a place, or reads', () => {
    const image = vector.manifest.files.find((file) => file.role === 'image');
    expect(outcomesOf('bit-flip')).toEqual([]);
    expect(sha256(vector.bytes)).toBe(image?.sha256);
  });
});

/** What is wrong with how the codecs met a mutation. */
function faultOf(bytes: Uint8Array, mutation: Mutation): Outcome[] {
  const before = memoryBytes();
  try {
    withMutation(bytes, mutation, (damaged) => walkImage(damaged, { entriesPerTable }));
  } catch (error) {
    const fault = errorFault(error);
    if (fault !== undefined) return [{ mutation: mutation.name, fault }];
  }
  const grown = memoryBytes() - before;
  return grown > 64 * 1024 * 1024 ? [{ mutation: mutation.name, fault: `${grown} bytes allocated` }] : [];
}

/** Heap and array buffers, whether or not they have been touched. */
function memoryBytes(): number {
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

function errorFault(error: unknown): string | undefined {
  if (!(error instanceof FormatError)) return `no FormatError: ${error}`;
  const { hostOffset, field, clause } = error.context;
  if (hostOffset === undefined) return `no host offset: ${error.message}`;
  if (field === undefined) return `no field: ${error.message}`;
  if (clause === undefined || !clauses.has(clause)) return `no known clause: ${error.message}`;
  return undefined;
}
