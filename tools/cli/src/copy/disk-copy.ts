/**
 * The engine below `convert`, `commit`, `rebase` and `dd`: pieces of a plan are read by several workers at once, looked through for zeros, and
 * written; in the order of the plan, or as they come.
 *
 * Invariants: a worker holds one buffer of `pieceBytes` and nothing else, so memory is bounded by `workers`; a piece is taken from the
 * plan only by a worker that is ready for it; with `inOrder` the writes of a piece begin when those of the piece before are done. Where
 * the target copies by itself (`copyFrom`), pieces are not read until that is refused once; then all of them are. The first
 * failure ends the copy when every worker has come to rest: nobody uses the target behind the caller's back.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ByteOrigin } from '@qcow2/block-device';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { CommandFailure, describeError } from '../failures.ts';
import { isZero } from '../zero-search.ts';
import type { CopyPiece, CopyReader } from './copy-plan.ts';
import type { Pace } from './pace.ts';

/** What is written to. */
export interface CopyTarget {
  /** What takes a place as a whole: it is written as a whole, where any of it is data. */
  readonly placeBytes: number;
  /** Zeros are looked for in ranges of this length; a multiple of `placeBytes`. */
  readonly unitBytes: number;
  write(offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Copy from a file without reading it here. @returns bytes copied, from the front on. Absent: never */
  readonly copyFrom?: ((offset: number, from: ByteOrigin) => Promise<number>) | undefined;
  /** The range is to read as zeros; nothing is done where it does. */
  zero(offset: number, lengthBytes: number): void | Promise<void>;
}

export interface CopyOptions {
  readonly workers: number;
  readonly inOrder: boolean;
  /** Whether data is looked through for units of zeros. */
  readonly findZeros: boolean;
  /** Sectors that can not be read are zeros in the target, and told of. */
  readonly onUnreadable?: ((offset: number, error: Qcow2Error) => void) | undefined;
  readonly onDone?: (lengthBytes: number) => void;
  readonly pace?: Pace | undefined;
  readonly stop?: AbortSignal | undefined;
}

const sectorBytes = 512;
const usualPieceBytes = 2 * 1024 * 1024;

/** Bytes of a piece at most: whole units, and about as much as a disk likes to be asked for at once. */
export function pieceBytesFor(unitBytes: number): number {
  return Math.max(usualPieceBytes, unitBytes);
}

/** @throws CommandFailure: "error while reading at byte …", "error while writing at byte …"; ABORTED when it was told to stop */
export async function copyPieces(
  pieces: AsyncIterable<CopyPiece>,
  source: CopyReader,
  target: CopyTarget,
  options: CopyOptions,
): Promise<void> {
  const copy = new Copy(pieces[Symbol.asyncIterator](), source, target, options);
  const workers = Array.from({ length: options.workers }, () => copy.work());
  const ends = await Promise.allSettled(workers);
  const failed = ends.find((end) => end.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

class Copy {
  readonly #pieces: AsyncIterator<CopyPiece>;
  readonly #source: CopyReader;
  readonly #target: CopyTarget;
  readonly #options: CopyOptions;
  /** The plan is asked for one piece at a time. */
  #taking: Promise<unknown> = Promise.resolve();
  /** Resolves when the writes of every piece taken so far are done. */
  #written: Promise<void> = Promise.resolve();
  #failed = false;
  /** The target copies by itself, as far as is known. */
  #offloads: boolean;

  constructor(
    pieces: AsyncIterator<CopyPiece>,
    source: CopyReader,
    target: CopyTarget,
    options: CopyOptions,
  ) {
    this.#pieces = pieces;
    this.#source = source;
    this.#target = target;
    this.#options = options;
    this.#offloads = target.copyFrom !== undefined;
  }

  async work(): Promise<void> {
    let buffer: Uint8Array | undefined;
    try {
      for (;;) {
        const taken = await this.#take();
        if (taken === undefined) return;
        const { piece, turn, done } = taken;
        try {
          if (piece.kind === 'data') {
            await this.#options.pace?.take(piece.lengthBytes);
            let { offset } = piece;
            if (this.#offloads) {
              if (this.#options.inOrder) await turn;
              if (this.#failed) return;
              offset += await this.#offload(piece);
            }
            const left = piece.offset + piece.lengthBytes - offset;
            if (left > 0) {
              buffer ??= new Uint8Array(pieceBytesFor(this.#target.unitBytes));
              const bytes = buffer.subarray(0, left);
              await this.#read(offset, bytes);
              if (this.#options.inOrder) await turn;
              if (this.#failed) return;
              await this.#writeData(offset, bytes);
            }
          } else if (piece.kind === 'zero') {
            if (this.#options.inOrder) await turn;
            if (this.#failed) return;
            await writing(piece.offset, () => this.#target.zero(piece.offset, piece.lengthBytes));
          }
          this.#options.onDone?.(piece.lengthBytes);
        } finally {
          done();
        }
      }
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  /** The next piece, when the one before has been taken. `turn`: the writes of those before are done. */
  #take(): Promise<{ piece: CopyPiece; turn: Promise<void>; done: () => void } | undefined> {
    const taking = this.#taking.then(async () => {
      if (this.#failed) return undefined;
      // Files answer at once, and a signal is heard between two turns of the event loop only.
      if (this.#options.stop !== undefined) await nextTurn();
      if (this.#options.stop?.aborted === true) throw new StateError('ABORTED', 'told to stop');
      const next = await this.#pieces.next();
      if (next.done === true) return undefined;
      const turn = this.#written;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#written = turn.then(() => promise);
      return { piece: next.value, turn, done: resolve };
    });
    this.#taking = taking.catch(() => undefined);
    return taking;
  }

  /**
   * Have whole places of a piece copied, as far as they stand in files in a row. As with qemu-img, what refuses one copy is not asked
   * again. @returns bytes copied, from the front on
   */
  async #offload({ offset, lengthBytes }: CopyPiece): Promise<number> {
    const { placeBytes, copyFrom } = this.#target;
    let done = 0;
    while (copyFrom !== undefined && done < lengthBytes) {
      const at = offset + done;
      const from = await this.#originOf(at, lengthBytes - done);
      const wholeBytes = from === undefined ? 0 : from.lengthBytes - (from.lengthBytes % placeBytes);
      if (from === undefined || wholeBytes === 0) break;
      let copied = 0;
      await writing(at, async () => {
        copied = await copyFrom(at, { ...from, lengthBytes: wholeBytes });
      });
      done += copied;
      if (copied < wholeBytes) {
        this.#offloads = false;
        break;
      }
    }
    return done;
  }

  /** What can not be told is read, and then says why. */
  async #originOf(offset: number, lengthBytes: number): Promise<ByteOrigin | undefined> {
    try {
      return await this.#source.origin?.(offset, lengthBytes);
    } catch (error) {
      if (error instanceof Qcow2Error) return undefined;
      throw error;
    }
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    try {
      await this.#source.read(offset, into);
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      if (this.#options.onUnreadable !== undefined) return await this.#salvage(offset, into);
      const message = `error while reading at byte ${offset}: ${describeError(error)}`;
      throw new CommandFailure(message, { cause: error });
    }
  }

  /** Sector by sector: what can be read is, the rest is zeros. */
  async #salvage(offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.length; at += sectorBytes) {
      const sector = into.subarray(at, at + sectorBytes);
      try {
        await this.#source.read(offset + at, sector);
      } catch (error) {
        if (!(error instanceof Qcow2Error)) throw error;
        sector.fill(0);
        this.#options.onUnreadable?.(offset + at, error);
      }
    }
  }

  async #writeData(offset: number, bytes: Uint8Array): Promise<void> {
    if (!this.#options.findZeros) {
      await writing(offset, () => this.#target.write(offset, bytes));
      return;
    }
    for (const run of runs(bytes, offset, this.#target.unitBytes)) {
      const at = offset + run.from;
      await writing(at, () =>
        run.isZero
          ? this.#target.zero(at, run.end - run.from)
          : this.#target.write(at, bytes.subarray(run.from, run.end)),
      );
    }
  }
}

interface Run {
  readonly from: number;
  readonly end: number;
  readonly isZero: boolean;
}

/** Units of zeros, and what stands between them. */
function* runs(bytes: Uint8Array, offset: number, unitBytes: number): Generator<Run, void, undefined> {
  let from = 0;
  let isZeroSoFar: boolean | undefined;
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + unitBytes - ((offset + at) % unitBytes));
    const isZeroHere = isZero(bytes, at, end - at);
    if (isZeroSoFar !== undefined && isZeroHere !== isZeroSoFar) {
      yield { from, end: at, isZero: isZeroSoFar };
      from = at;
    }
    isZeroSoFar = isZeroHere;
    at = end;
  }
  if (isZeroSoFar !== undefined) yield { from, end: bytes.length, isZero: isZeroSoFar };
}

async function writing(offset: number, write: () => void | Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw new CommandFailure(`error while writing at byte ${offset}: ${writeFailure(error)}`, {
      cause: error,
    });
  }
}

/** The C library's words, where scripts may look for them. */
function writeFailure(error: Qcow2Error): string {
  if (error.code === 'NO_SPACE') return 'No space left on device';
  if (error.code === 'UNSUPPORTED_OPERATION') return 'Operation not supported';
  return describeError(error);
}
