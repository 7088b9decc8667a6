/** Values of journal structures, for property tests. */
import { guestOffset, type HostOffset, hostOffset } from '@qcow2/spec';
import fc from 'fast-check';
import type { DraftDescriptor, DraftTransaction } from '../../src/journal/draft-2013.ts';
import type { JournalDescriptor, JournalSlot, RecordContent } from '../../src/journal/v1.ts';

const u32 = fc.nat({ max: 0xffffffff });
const mask64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
const host = fc.nat({ max: 2 ** 50 }).map(hostOffset);
const guest = fc.nat({ max: 2 ** 50 }).map(guestOffset);
const guestSector = fc.nat({ max: 2 ** 40 }).map((sector) => guestOffset(sector * 512));
const longLength = fc.integer({ min: 1, max: 2 ** 40 });
const body = fc.uint8Array({ maxLength: 40 });

/** Any descriptor of a record with so much payload (at least 512 bytes) and this sequence. */
function descriptor(payloadBytes: number, sequence: number): fc.Arbitrary<JournalDescriptor> {
  const reference = fc
    .tuple(fc.integer({ min: 1, max: payloadBytes }), fc.nat({ max: payloadBytes }))
    .map(([lengthBytes, at]) => ({ lengthBytes, payloadOffset: Math.min(at, payloadBytes - lengthBytes) }));
  const sectors = fc
    .tuple(fc.integer({ min: 1, max: Math.floor(payloadBytes / 512) }), fc.nat({ max: payloadBytes }))
    .map(([count, at]) => ({
      lengthBytes: count * 512,
      payloadOffset: Math.min(at, payloadBytes - count * 512),
    }));
  return fc.oneof<fc.Arbitrary<JournalDescriptor>[]>(
    fc.record({
      type: fc.constant('inline-write'),
      hostOffset: host,
      bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }),
    }),
    fc.tuple(host, reference).map(([at, rest]) => ({ type: 'write-payload', hostOffset: at, ...rest })),
    fc.tuple(guestSector, sectors).map(([at, rest]) => ({ type: 'guest-write', guestOffset: at, ...rest })),
    fc.record({
      type: fc.constant('guest-settled'),
      guestOffset: guestSector,
      lengthBytes: longLength.map((length) => length * 512),
      throughSequence: fc.nat({ max: sequence }),
    }),
    fc.record({ type: fc.constant('revoke'), hostOffset: host, lengthBytes: longLength }),
    fc.tuple(fc.nat({ max: 2 ** 40 }), longLength, fc.nat({ max: 2 ** 40 })).map(([at, length, gap]) => ({
      type: 'copy',
      targetHostOffset: hostOffset(at),
      sourceHostOffset: hostOffset(at + length + gap),
      lengthBytes: length,
    })),
    fc.record({
      type: fc.constant('fill-from-backing'),
      targetHostOffset: host,
      guestOffset: guest,
      lengthBytes: longLength,
    }),
    fc.record({
      type: fc.constant('intent'),
      intentKind: u32,
      intentId: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      body,
    }),
    fc.record({ type: fc.constant('intent-done'), intentId: fc.nat({ max: Number.MAX_SAFE_INTEGER }) }),
    fc.record({ type: fc.constant('no-op'), lengthBytes: fc.integer({ min: 1, max: 9 }).map((n) => n * 8) }),
    fc.record({ type: fc.constant('unknown'), number: fc.integer({ min: 22, max: 0xffff }), body }),
  );
}

/** A record of 512-byte or 4-KiB blocks, its payload in one to three pieces. */
export const recordContent: fc.Arbitrary<RecordContent> = fc
  .record({
    sequence: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    payload: fc.array(fc.uint8Array({ minLength: 512, maxLength: 1200 }), { minLength: 1, maxLength: 3 }),
  })
  .chain(({ sequence, payload }) => {
    const payloadBytes = payload.reduce((sum, piece) => sum + piece.length, 0);
    return fc.record({
      sequence: fc.constant(sequence),
      journalId: mask64,
      salt: mask64,
      position: fc.nat({ max: 2 ** 30 }),
      chain: u32,
      durableThrough: fc.nat({ max: sequence - 1 }),
      life: fc.boolean(),
      blockBytes: fc.constantFrom(512, 4096),
      descriptors: fc.array(descriptor(payloadBytes, sequence), { maxLength: 12 }),
      payload: fc.constant(payload),
    });
  });

/** A slot of an area of 1 MiB to 1 GiB. */
export const slot: fc.Arbitrary<JournalSlot> = fc
  .record({ blockSizeOrder: fc.integer({ min: 9, max: 16 }), areaMiB: fc.integer({ min: 1, max: 1024 }) })
  .chain(({ blockSizeOrder, areaMiB }) =>
    fc.record({
      generation: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      blockSizeOrder: fc.constant(blockSizeOrder),
      journalId: mask64,
      areaHostOffset: fc.nat({ max: 2 ** 30 }).map((cluster) => hostOffset(cluster * 65536)),
      areaLengthBytes: fc.constant(areaMiB * 2 ** 20),
      tailPosition: fc
        .nat({ max: (areaMiB * 2 ** 20 - 2 ** 17) / 2 ** blockSizeOrder - 1 })
        .map((block) => block * 2 ** blockSizeOrder),
      tailSequence: fc.integer({ min: 1, max: 2 ** 50 }),
      tailSalt: mask64,
      tailChain: u32,
      flags: fc.constant(0),
      durableSequence: fc.integer({ min: 2 ** 50, max: Number.MAX_SAFE_INTEGER }),
    }),
  );

const anywhere = (lengthBytes: number): fc.Arbitrary<{ lengthBytes: number; hostOffset: HostOffset }> =>
  host.map((hostAt) => ({ lengthBytes, hostOffset: hostAt }));

/** A transaction of the draft in 512-byte blocks, its descriptor block at block 1 of a ring of nine. */
export const draftTransaction: fc.Arbitrary<DraftTransaction> = fc
  .integer({ min: 1, max: 8 })
  .chain((blocks) =>
    fc.record({
      sequence: u32,
      descriptors: fc.array(draftDescriptor(blocks), { maxLength: 5 }),
      data: fc.uint8Array({ minLength: blocks * 512, maxLength: blocks * 512 }),
    }),
  );

function draftDescriptor(blocks: number): fc.Arbitrary<DraftDescriptor> {
  const chunk = fc.nat({ max: blocks - 1 }).chain((first) =>
    fc
      .nat({ max: (blocks - first) * 512 })
      .chain(anywhere)
      .map((range) => ({ ...range, journalBlockIndex: 2 + first })),
  );
  const copy = fc.tuple(fc.nat({ max: 2 ** 40 }), u32).map(([at, lengthBytes]) => ({
    lengthBytes,
    targetHostOffset: hostOffset(at + lengthBytes),
    sourceHostOffset: hostOffset(at),
  }));
  return fc.oneof<fc.Arbitrary<DraftDescriptor>[]>(
    fc.record({ type: fc.constant('write-data'), chunks: fc.array(chunk, { maxLength: 3 }) }),
    fc.record({ type: fc.constant('copy-data'), chunks: fc.array(copy, { maxLength: 3 }) }),
    fc.record({ type: fc.constant('revoke'), ranges: fc.array(u32.chain(anywhere), { maxLength: 3 }) }),
    fc.record({ type: fc.constant('no-op'), body }),
    fc.record({ type: fc.constant('unknown'), number: fc.integer({ min: 4, max: 0xffff }), body }),
  );
}
