import { deflateRawSync, inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inflateOnly } from './compression.ts';
import { inflate } from './inflate.ts';

const cluster = 4096;

/** A cluster of words from a small set, so that codes of all kinds and lengths are needed. */
const contents = fc
  .array(
    fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc
        .tuple(fc.nat(255), fc.integer({ min: 1, max: 700 }))
        .map(([byte, n]) => new Uint8Array(n).fill(byte)),
      fc
        .constantFrom('the ring', 'a record', 'and a slot')
        .map((text) => new TextEncoder().encode(text.repeat(9))),
    ),
    { maxLength: 30 },
  )
  .map((pieces) => {
    const bytes = new Uint8Array(cluster);
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece.subarray(0, cluster - at), at);
      at = Math.min(cluster, at + piece.length);
    }
    return bytes;
  });

const options = fc.record({
  level: fc.integer({ min: 0, max: 9 }),
  windowBits: fc.integer({ min: 9, max: 15 }),
  memLevel: fc.integer({ min: 1, max: 9 }),
  strategy: fc.integer({ min: 0, max: 4 }),
});

describe('inflate', () => {
  it('[CMP-005, CMP-006, CMP-008] makes what zlib compressed, whatever stands behind it', () => {
    fc.assert(
      fc.property(contents, options, fc.uint8Array({ maxLength: 40 }), (content, how, behind) => {
        const stream = deflateRawSync(content, how);
        const bytes = new Uint8Array(stream.length + behind.length);
        bytes.set(stream);
        bytes.set(behind, stream.length);
        const into = new Uint8Array(cluster);
        inflate(bytes, into);
        expect(into).toEqual(content);
      }),
    );
  });

  it('[CMP-008] agrees with zlib about damaged streams', () => {
    const damages = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 3,
    });
    fc.assert(
      fc.property(contents, options, damages, (content, how, bits) => {
        const stream = new Uint8Array(deflateRawSync(content, how));
        for (const [at, mask] of bits) stream[at % stream.length]! ^= mask;
        const into = new Uint8Array(cluster);
        const ours = outcome(() => {
          inflate(stream, into);
          return into;
        });
        const theirs = outcome(() => {
          const made = inflateRawSync(stream, { maxOutputLength: cluster, finishFlush: 2 });
          if (made.length !== cluster) throw new RangeError('of another length');
          return made;
        });
        expect(ours === undefined).toBe(theirs === undefined);
        if (theirs !== undefined) expect(into).toEqual(new Uint8Array(theirs));
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    ['more than a cluster', deflateRawSync(new Uint8Array(cluster + 1)), 'more'],
    ['a gigabyte from a megabyte', deflateRawSync(new Uint8Array(1 << 26)), 'more'],
    ['less than a cluster', deflateRawSync(new Uint8Array(cluster - 1)), 'less'],
    ['nothing', new Uint8Array(0), 'ends within'],
    ['a block of type 3', Uint8Array.of(7), 'type'],
    ['a stored block with a wrong check', Uint8Array.of(1, 1, 0, 0, 0, 9), 'check'],
    ['a distance before the first byte', Uint8Array.of(3, 2, 0), 'before its first'],
  ])('[CMP-008] refuses %s', (_, bytes, words) => {
    expect(() => inflate(bytes, new Uint8Array(cluster))).toThrow(
      expect.objectContaining({ code: 'COMPRESSED_DAMAGED', message: expect.stringContaining(words) }),
    );
  });

  it('takes a stream that is cut off behind its cluster', () => {
    const content = new Uint8Array(cluster).map((_, i) => (i * 7919) >> 5);
    const stream = deflateRawSync(content, { level: 0 });
    const into = new Uint8Array(cluster);
    inflate(stream.subarray(0, 5 + cluster), into);
    expect(into).toEqual(content);
  });
});

describe('inflateOnly', () => {
  it('[CMP-006] reads deflate and names what it does not read', () => {
    const content = new Uint8Array(cluster).fill(3);
    expect(inflateOnly.decompress(0, deflateRawSync(content), cluster)).toEqual(content);
    expect(() => inflateOnly.decompress(1, new Uint8Array(9), cluster)).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED_FEATURE' }),
    );
  });
});

function outcome<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
