import { MemoryDevice } from '@qcow2/block-device';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { servedExport } from '../../src/export.ts';
import { Handshake, type HandshakeOutcome } from '../../src/handshake.ts';
import { infoData, metaData, OPT, optionBytes, u32 } from '../support/client.ts';

const served = servedExport({
  name: 'disk',
  device: new MemoryDevice({ sizeBytes: 1 << 20 }),
  description: 'a disk',
});
const exports = new Map([[served.name, served]]);

const name = fc.constantFrom('disk', '', 'other');
const option = fc.oneof(
  name.map((text) => optionBytes(OPT.INFO, infoData(text, [0, 1, 2, 3]))),
  name.map((text) => optionBytes(OPT.LIST_META, metaData(text, ['base:']))),
  name.map((text) => optionBytes(OPT.SET_META, metaData(text, ['base:allocation', 'x-y:z']))),
  fc.constantFrom(
    optionBytes(OPT.LIST),
    optionBytes(OPT.STRUCTURED),
    optionBytes(OPT.GO, Buffer.alloc(70_000)),
  ),
  fc.tuple(fc.nat(20), fc.uint8Array({ maxLength: 60 })).map(([type, data]) => optionBytes(type, data)),
);
const ending = fc.constantFrom(
  optionBytes(OPT.GO, infoData('disk')),
  optionBytes(OPT.EXPORT_NAME, Buffer.from('disk')),
  optionBytes(OPT.ABORT),
);

interface Transcript {
  readonly output: Buffer;
  readonly outcome: HandshakeOutcome;
}

function shake(pieces: readonly Uint8Array[]): Transcript {
  const handshake = new Handshake(exports);
  const output: Uint8Array[] = [];
  let outcome: HandshakeOutcome = { kind: 'more' };
  for (const piece of pieces) {
    outcome = handshake.advance(piece);
    output.push(...handshake.takeOutput());
    if (outcome.kind !== 'more') break;
  }
  return { output: Buffer.concat(output), outcome };
}

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return [...pieces, bytes.subarray(at)];
}

test('a handshake says the same however its bytes are cut', () => {
  fc.assert(
    fc.property(
      fc.array(option, { maxLength: 6 }),
      ending,
      fc.array(fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 40_000 })), {
        maxLength: 30,
      }),
      (options, last, sizes) => {
        const bytes = Buffer.concat([u32(3), ...options, last]);
        const whole = shake([bytes]);
        const pieces = shake(cut(bytes, sizes));
        expect(pieces.output.equals(whole.output)).toBe(true);
        expect(pieces.outcome.kind).toBe(whole.outcome.kind);
        expect(whole.outcome.kind).not.toBe('more');
      },
    ),
    { numRuns: 500 },
  );
});

test('bytes behind the last option are kept for the transmission', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (rest) => {
      const { outcome } = shake([Buffer.concat([u32(3), optionBytes(OPT.GO, infoData('disk')), rest])]);
      expect(outcome.kind === 'session' && Buffer.from(outcome.session.rest).equals(rest)).toBe(true);
    }),
  );
});

test('any bytes end in a session, an end, a wish for more, or BAD_MAGIC', () => {
  const anything = fc.oneof(
    option,
    ending,
    fc.uint8Array({ maxLength: 100 }),
    fc.constant(Buffer.from('IHAVEOPT')),
  );
  fc.assert(
    fc.property(fc.boolean(), fc.array(anything, { maxLength: 10 }), (polite, pieces) => {
      try {
        const { output } = shake(polite ? [u32(3), ...pieces] : pieces);
        expect(output.length).toBeLessThan(100_000);
      } catch (error) {
        expect(error).toMatchObject({ code: 'BAD_MAGIC' });
      }
    }),
    { numRuns: 1000 },
  );
});
