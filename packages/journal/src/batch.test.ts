import { descriptorSizeBytes, encodeRecord } from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { random } from '../test/support/random.ts';
import { collectBatch } from './batch.ts';
import { descriptorBytesBound, type Microtransaction } from './microtransaction.ts';

function queued(transactions: readonly Partial<Microtransaction>[]) {
  return transactions.map((over, i) => ({
    transaction: { required: true, afterData: false, ...over } satisfies Microtransaction,
    throughSequence: i,
  }));
}

function write(at: number, value: number, length = 8) {
  return { hostOffset: hostOffset(at), bytes: new Uint8Array(length).fill(value) };
}

const settled = [{ guestOffset: guestOffset(0), lengthBytes: 512 }];

describe('a batch', () => {
  it('[JRN-COMMIT-007] holds revokes, then writes, then settled ranges', () => {
    const revokes = [{ hostOffset: hostOffset(65536), lengthBytes: 512 }];
    const queue = queued([{ settled }, { hostWrites: [write(0, 1)] }, { revokes, settled }]);
    const { descriptors } = collectBatch(queue, 3, 4096);
    expect(descriptors.map(({ type }) => type)).toEqual([
      'revoke',
      'inline-write',
      'guest-settled',
      'guest-settled',
    ]);
  });

  it('[JRN-COMMIT-007] holds copies and fills behind writes, and of each what later revokes leave', () => {
    const copy = { targetHostOffset: 4096, sourceHostOffset: 65536, lengthBytes: 2048 };
    const fill = { targetHostOffset: hostOffset(8192), guestOffset: guestOffset(512), lengthBytes: 1024 };
    const revokes = [
      { hostOffset: hostOffset(4608), lengthBytes: 512 },
      { hostOffset: hostOffset(8192), lengthBytes: 512 },
    ];
    const queue = queued([
      { copies: [copy], fills: [fill], hostWrites: [write(0, 1)], settled },
      { revokes, copies: [{ ...copy, targetHostOffset: 4608, lengthBytes: 512 }] },
    ]);
    const { descriptors, boundBytes } = collectBatch(queue, 2, 4096);
    expect(descriptors.slice(0, 3).map(({ type }) => type)).toEqual(['revoke', 'revoke', 'inline-write']);
    expect(descriptors.slice(3)).toEqual([
      { type: 'copy', targetHostOffset: 4096, sourceHostOffset: 65536, lengthBytes: 512 },
      { type: 'copy', targetHostOffset: 5120, sourceHostOffset: 66560, lengthBytes: 1024 },
      { type: 'fill-from-backing', targetHostOffset: 8704, guestOffset: 1024, lengthBytes: 512 },
      { type: 'copy', targetHostOffset: 4608, sourceHostOffset: 65536, lengthBytes: 512 },
      expect.objectContaining({ type: 'guest-settled' }),
    ]);
    const bytes = descriptors.reduce((sum, each) => sum + descriptorSizeBytes(each), 80);
    expect(boundBytes).toBeGreaterThanOrEqual(bytes);
  });

  it('[JRN-COMMIT-007] loses to a revoke what came before it in its range, and keeps what came later', () => {
    const revokes = [{ hostOffset: hostOffset(4), lengthBytes: 8 }];
    const queue = queued([{ hostWrites: [write(0, 1, 16)] }, { revokes, hostWrites: [write(6, 2, 2)] }]);
    const { descriptors } = collectBatch(queue, 2, 4096);
    const writes = descriptors.flatMap((each) =>
      each.type === 'inline-write' ? [[each.hostOffset, [...each.bytes]]] : [],
    );
    expect(writes).toEqual([
      [0, [1, 1, 1, 1]],
      [6, [2, 2]],
      [12, [1, 1, 1, 1]],
    ]);
  });

  it('[JRN-COMMIT-006] logs bytes that were changed twice once, with the later value, side by side as one', () => {
    const queue = queued([
      { hostWrites: [write(0, 1)] },
      { hostWrites: [write(8, 2)] },
      { hostWrites: [write(4, 3)] },
    ]);
    const { descriptors, hostWrites, submittedBytes } = collectBatch(queue, 3, 4096);
    expect(descriptors).toHaveLength(1);
    expect(descriptors[0]).toMatchObject({
      hostOffset: 0,
      bytes: Uint8Array.of(1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2),
    });
    expect([hostWrites.setBytes, submittedBytes]).toEqual([16, 24]);
  });

  it('[JRN-COMMIT-005] takes changes whole and in order, as many as fit, and none that may not be logged yet', () => {
    const queue = queued(Array.from({ length: 20 }, (_, i) => ({ hostWrites: [write(i * 64, i, 32)] })));
    const each = descriptorBytesBound(queue[0]!.transaction);
    expect(collectBatch(queue, 20, 80 + 5 * each).count).toBe(5);
    expect(collectBatch(queue, 20, 80 + 6 * each - 1).count).toBe(5);
    expect(collectBatch(queue, 3, 4096).count).toBe(3);
    expect(collectBatch(queue, 0, 4096).count).toBe(0);
  });

  it('takes the first change even where its bound is too large: merged it may fit', () => {
    const queue = queued([{ hostWrites: Array.from({ length: 100 }, (_, i) => write(i * 2, i, 2)) }]);
    const { count, descriptors } = collectBatch(queue, 1, 1024);
    expect(count).toBe(1);
    expect(descriptors).toHaveLength(1);
  });

  it('is never longer as a record than its bound says', () => {
    const rng = random(1);
    for (let turn = 0; turn < 200; turn++) {
      const queue = queued(
        Array.from({ length: 1 + rng.below(30) }, () => ({
          hostWrites: Array.from({ length: rng.below(5) }, () =>
            write(rng.below(600), rng.below(256), 1 + rng.below(80)),
          ),
          revokes: Array.from({ length: rng.below(2) }, () => ({
            hostOffset: hostOffset(rng.below(600)),
            lengthBytes: 1 + rng.below(100),
          })),
          settled: rng.below(2) === 0 ? settled : [],
        })),
      );
      const { descriptors, boundBytes } = collectBatch(queue, queue.length, 1 << 20);
      const { bytes } = encodeRecord({
        sequence: 100,
        journalId: 1n,
        salt: 1n,
        position: 0,
        chain: 0,
        durableThrough: 0,
        life: true,
        blockBytes: 512,
        descriptors,
        payload: [],
      });
      expect(bytes.length).toBeLessThanOrEqual(Math.ceil(boundBytes / 512) * 512);
    }
  });
});
