import { type ByteOrigin, MemoryDevice } from '@qcow2/block-device';
import { StorageError } from '@qcow2/spec';
import { describe, expect, test } from 'vitest';
import type { CopyPiece, PieceKind } from './copy-plan.ts';
import { type CopyOptions, type CopyTarget, copyPieces } from './disk-copy.ts';

const unitBytes = 1024;

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A source that answers late and out of turn, and a target that says what was done to it, in order. */
class Played implements CopyTarget {
  readonly placeBytes = unitBytes;
  readonly unitBytes = unitBytes;
  readonly source: Uint8Array;
  readonly bytes: Uint8Array;
  readonly done: string[] = [];
  mostAtOnce = 0;
  #reading = 0;
  #answered = 0;

  constructor(sizeBytes: number) {
    this.source = Uint8Array.from({ length: sizeBytes }, (_, at) => 1 + (at % 250));
    this.bytes = new Uint8Array(sizeBytes).fill(255);
  }

  readonly reader = {
    read: async (offset: number, into: Uint8Array): Promise<void> => {
      this.#reading++;
      this.mostAtOnce = Math.max(this.mostAtOnce, this.#reading);
      // The first of them is the last to answer.
      for (let turn = (offset / unitBytes) % 4; turn < 4; turn++) await Promise.resolve();
      await nextTurn();
      // Behind the answer of another one, and what comes of that.
      while (offset === 0 && this.#reading > 1 && this.#answered === 0) await nextTurn();
      if (offset === 0) await nextTurn();
      this.#answered++;
      this.#reading--;
      into.set(this.source.subarray(offset, offset + into.length));
    },
  };

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.done.push(`write ${offset}+${bytes.length}`);
    this.bytes.set(bytes, offset);
  }

  zero(offset: number, lengthBytes: number): void {
    this.done.push(`zero ${offset}+${lengthBytes}`);
    this.bytes.fill(0, offset, offset + lengthBytes);
  }

  async copy(pieces: readonly CopyPiece[], options: Partial<CopyOptions> = {}): Promise<void> {
    const all = { workers: 4, inOrder: true, findZeros: true, ...options };
    await copyPieces(asynchronously(pieces), this.reader, this, all);
  }
}

async function* asynchronously<T>(values: readonly T[]): AsyncGenerator<T> {
  yield* values;
}

function pieces(count: number, kind: PieceKind = 'data'): CopyPiece[] {
  return Array.from({ length: count }, (_, at) => ({ kind, offset: at * unitBytes, lengthBytes: unitBytes }));
}

const failing = (at: number) => (offset: number) => {
  if (offset === at) throw new StorageError('NO_SPACE', 'full');
};

describe('copying pieces', () => {
  test('several are read at once, and written in order', async () => {
    const played = new Played(8 * unitBytes);
    await played.copy(pieces(8));
    expect(played.bytes).toEqual(played.source);
    expect(played.done).toEqual(pieces(8).map(({ offset }) => `write ${offset}+${unitBytes}`));
    expect(played.mostAtOnce).toBe(4);
  });

  test('out of order they are written as they come', async () => {
    const played = new Played(8 * unitBytes);
    await played.copy(pieces(8), { inOrder: false });
    expect(played.bytes).toEqual(played.source);
    expect(played.done[0]).not.toBe(`write 0+${unitBytes}`);
  });

  test('units of zeros are found in data, and told from what is left', async () => {
    const played = new Played(5 * unitBytes);
    played.source.fill(0, unitBytes, 3 * unitBytes);
    const whole: CopyPiece = { kind: 'data', offset: 0, lengthBytes: 4 * unitBytes };
    await played.copy([whole, { kind: 'leave', offset: 4 * unitBytes, lengthBytes: unitBytes }]);
    expect(played.done).toEqual(['write 0+1024', 'zero 1024+2048', 'write 3072+1024']);
    expect(played.bytes[4 * unitBytes]).toBe(255);
    const plain = new Played(4 * unitBytes);
    plain.source.fill(0);
    await plain.copy([whole], { findZeros: false });
    expect(plain.done).toEqual(['write 0+4096']);
  });

  test('a failed write ends it, said with its place, and nothing is written behind it', async () => {
    const played = new Played(16 * unitBytes);
    const target: CopyTarget = {
      placeBytes: unitBytes,
      unitBytes,
      zero: () => undefined,
      write: async (offset, bytes) => {
        failing(3 * unitBytes)(offset);
        await played.write(offset, bytes);
      },
    };
    const options = { workers: 4, inOrder: true, findZeros: true };
    await expect(copyPieces(asynchronously(pieces(16)), played.reader, target, options)).rejects.toThrow(
      'error while writing at byte 3072: No space left on device',
    );
    expect(played.done).toEqual(['write 0+1024', 'write 1024+1024', 'write 2048+1024']);
  });

  test('salvage: what can not be read is zeros, and told of, sector by sector', async () => {
    const played = new Played(2 * unitBytes);
    const broken = unitBytes + 512;
    const told: number[] = [];
    const reader = {
      read: (offset: number, into: Uint8Array): void => {
        if (offset <= broken && offset + into.length > broken) throw new StorageError('READ_FAILED', 'no');
        into.set(played.source.subarray(offset, offset + into.length));
      },
    };
    const options = { workers: 2, inOrder: true, findZeros: false };
    await copyPieces(asynchronously(pieces(2)), reader, played, {
      ...options,
      onUnreadable: (offset) => told.push(offset),
    });
    expect(told).toEqual([broken]);
    const expected = played.source.slice();
    expected.fill(0, broken, broken + 512);
    expect(played.bytes).toEqual(expected);
    await expect(copyPieces(asynchronously(pieces(2)), reader, played, options)).rejects.toThrow(
      'error while reading at byte 1024: no',
    );
  });

  test('where the target copies by itself, pieces are not read, but for what it leaves', async () => {
    const played = new Played(8 * unitBytes);
    const file = new MemoryDevice();
    const asked: string[] = [];
    let most = Number.POSITIVE_INFINITY;
    const copyFrom = async (offset: number, from: ByteOrigin): Promise<number> => {
      asked.push(`${offset}+${from.lengthBytes} at ${from.offset}`);
      const copied = Math.min(from.lengthBytes, most);
      played.bytes.set(played.source.subarray(offset, offset + copied), offset);
      return copied;
    };
    const run = async (places: (offset: number, lengthBytes: number) => ByteOrigin | undefined) => {
      for (const log of [asked, played.done]) log.length = 0;
      played.bytes.fill(255);
      const { placeBytes, write, zero } = played;
      const target = { placeBytes, unitBytes, copyFrom, write: write.bind(played), zero: zero.bind(played) };
      const reader = { ...played.reader, origin: places };
      const whole = { kind: 'data', offset: 0, lengthBytes: 4 * unitBytes } as const;
      const rest = { kind: 'data', offset: 4 * unitBytes, lengthBytes: 4 * unitBytes } as const;
      const options = { workers: 1, inOrder: true, findZeros: true };
      await copyPieces(asynchronously([whole, rest]), reader, target, options);
      expect(played.bytes).toEqual(played.source);
    };
    await run((offset, lengthBytes) => ({ device: file, offset: offset + 77, lengthBytes }));
    expect([asked, played.done]).toEqual([['0+4096 at 77', '4096+4096 at 4173'], []]);
    // A row that ends within a place is copied up to there; what stands nowhere is read.
    await run((offset, lengthBytes) =>
      offset < 4096 ? { device: file, offset, lengthBytes: Math.min(lengthBytes, 2500) } : undefined,
    );
    expect(asked).toEqual(['0+2048 at 0', '2048+2048 at 2048']);
    expect(played.done).toEqual(['write 4096+4096']);
    // What is refused once is not asked again.
    most = 1024;
    await run((offset, lengthBytes) => ({ device: file, offset, lengthBytes }));
    expect(asked).toEqual(['0+4096 at 0']);
    expect(played.done).toEqual(['write 1024+3072', 'write 4096+4096']);
    // Where nobody knows a place, reading says what is wrong.
    await run(() => {
      throw new StorageError('READ_FAILED', 'a table can not be read');
    });
    expect(asked).toEqual([]);
  });

  test('told to stop, it takes no other piece', async () => {
    const played = new Played(8 * unitBytes);
    const stop = new AbortController();
    const stopped = played.copy(pieces(8), {
      workers: 1,
      stop: stop.signal,
      onDone: () => stop.abort(),
    });
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect(played.done).toEqual(['write 0+1024']);
  });
});
