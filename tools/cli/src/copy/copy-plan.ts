/**
 * What of a disk is to be copied: pieces in order, from what the source is made of. A plan knows nothing of how pieces are read or
 * written; `disk-copy.ts` does, and knows nothing of why.
 */
import type { BlockDevice, ByteOrigin } from '@qcow2/block-device';
import { type BlockStatus, blockStatuses } from '../block-status.ts';
import type { OpenedLayer } from '../open-image.ts';

/** `data`: read and written, or found to be zeros. `zero`: known to be zeros. `leave`: the target shows it already. */
export type PieceKind = 'data' | 'zero' | 'leave';

export interface CopyPiece {
  readonly kind: PieceKind;
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Where the bytes of pieces are read, at the offsets that they have in the target. */
export interface CopyReader {
  read(offset: number, into: Uint8Array): void | Promise<void>;
  /** Where a range stands byte for byte in a file, as far as it does in a row; undefined where its beginning does not. Absent: nowhere. */
  origin?(offset: number, lengthBytes: number): ByteOrigin | undefined | Promise<ByteOrigin | undefined>;
}

/** A disk that is read, and where the target has it. */
export interface CopySource {
  readonly device: BlockDevice;
  readonly layers: readonly OpenedLayer[];
  readonly startsAt: number;
}

export interface PlanChoice {
  /** What is done about a range of a disk. */
  kindOf(status: BlockStatus): PieceKind;
  /** Layers of the sources that are asked about; all of them if not given. */
  readonly depthLimit?: number | undefined;
  /** What is to be left beyond this is copied all the same: the target shows nothing there. */
  readonly leaveBelow?: number | undefined;
}

/** All of the sources, one behind the other. */
export async function* planCopy(
  sources: readonly CopySource[],
  { kindOf, depthLimit, leaveBelow = Number.POSITIVE_INFINITY }: PlanChoice,
): AsyncGenerator<CopyPiece, void, undefined> {
  for (const { device, layers, startsAt } of sources) {
    for await (const status of blockStatuses(layers, 0, device.sizeBytes, depthLimit ?? layers.length)) {
      const { offset, lengthBytes } = status;
      const at = startsAt + offset;
      const piece = { kind: kindOf(status), offset: at, lengthBytes };
      const left = piece.kind === 'leave' ? Math.max(0, Math.min(lengthBytes, leaveBelow - at)) : lengthBytes;
      if (left > 0) yield part(piece, at, at + left);
      if (left < lengthBytes) yield { ...part(piece, at + left, at + lengthBytes), kind: 'data' };
    }
  }
}

/** Disks one behind the other, read as one. */
export function joinedReader(sources: readonly CopySource[]): CopyReader {
  return {
    async read(offset, into) {
      const end = offset + into.length;
      for (const { device, startsAt } of sources) {
        const from = Math.max(offset, startsAt);
        const until = Math.min(end, startsAt + device.sizeBytes);
        if (from < until) await device.read(from - startsAt, into.subarray(from - offset, until - offset));
      }
    },
    async origin(offset, lengthBytes) {
      for (const { device, startsAt } of sources) {
        const inDisk = Math.min(lengthBytes, startsAt + device.sizeBytes - offset);
        if (offset >= startsAt && inDisk > 0) {
          return await lowestOrigin({ device, offset: offset - startsAt, lengthBytes: inDisk });
        }
      }
      return undefined;
    },
  };
}

/** Through images and what is around files, down to what has nothing below. */
async function lowestOrigin(range: ByteOrigin): Promise<ByteOrigin | undefined> {
  let origin: ByteOrigin | undefined = range;
  while (origin?.device.origin !== undefined) {
    origin = await origin.device.origin(origin.offset, origin.lengthBytes);
  }
  return origin;
}

/**
 * The same in pieces that begin and end with units of the target and are no longer than `mostBytes`: a unit that is data in part is read
 * as a whole, since it takes its place as a whole. A unit of zeros and of what is left as it is stays as it is cut.
 * @param mostBytes a multiple of the unit
 */
export async function* inUnits(
  pieces: AsyncIterable<CopyPiece>,
  unitBytes: number,
  mostBytes: number,
): AsyncGenerator<CopyPiece, void, undefined> {
  /** Not all of a unit yet, or not seen to be. */
  let held: CopyPiece[] = [];
  for await (const piece of cutAtUnits(pieces, unitBytes)) {
    const unit = Math.floor(piece.offset / unitBytes);
    const first = held[0];
    if (first !== undefined && Math.floor(first.offset / unitBytes) !== unit) {
      yield* cutToLength(wholeUnit(held), mostBytes);
      held = [];
    }
    if (piece.lengthBytes >= unitBytes && held.length === 0) yield* cutToLength([piece], mostBytes);
    else held.push(piece);
  }
  yield* cutToLength(wholeUnit(held), mostBytes);
}

/** Each piece lies in one unit, or is whole units. */
async function* cutAtUnits(
  pieces: AsyncIterable<CopyPiece>,
  unitBytes: number,
): AsyncGenerator<CopyPiece, void, undefined> {
  for await (const piece of pieces) {
    const end = piece.offset + piece.lengthBytes;
    for (let at = piece.offset; at < end; ) {
      const nextUnit = (Math.floor(at / unitBytes) + 1) * unitBytes;
      const lastUnit = Math.floor(end / unitBytes) * unitBytes;
      const cut = at % unitBytes === 0 && lastUnit > at ? lastUnit : Math.min(end, nextUnit);
      yield part(piece, at, cut);
      at = cut;
    }
  }
}

/** Pieces of one unit: one piece of data, if any of them is. */
function wholeUnit(pieces: readonly CopyPiece[]): readonly CopyPiece[] {
  const [first] = pieces;
  if (first === undefined || pieces.length === 1 || !pieces.some(({ kind }) => kind === 'data'))
    return pieces;
  const lengthBytes = pieces.reduce((sum, piece) => sum + piece.lengthBytes, 0);
  return [{ ...first, kind: 'data', lengthBytes }];
}

/** Only data is held in memory; the others stay in one. */
function* cutToLength(
  pieces: readonly CopyPiece[],
  mostBytes: number,
): Generator<CopyPiece, void, undefined> {
  for (const piece of pieces) {
    const end = piece.offset + piece.lengthBytes;
    if (piece.kind !== 'data') yield piece;
    else
      for (let at = piece.offset; at < end; at += mostBytes)
        yield part(piece, at, Math.min(end, at + mostBytes));
  }
}

function part(piece: CopyPiece, from: number, end: number): CopyPiece {
  return { ...piece, offset: from, lengthBytes: end - from };
}
