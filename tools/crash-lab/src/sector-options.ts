/**
 * What one sector may hold after a crash: the contents that some subset of the pending writes to it, carried
 * out in some order, leaves behind.
 *
 * Writes that cover the sector whole hide what was before, so each alone gives all that they can give: the
 * options are the durable content and each write's content. Writes of a part of it compose. Where no two of
 * the parts touch, the order says nothing and the options are the subsets; where they do, all ordered
 * subsets are followed. Equal contents are one option.
 *
 * The durable content is option 0; option order is fixed by the order of the writes, so that a number names
 * an option for ever.
 */
import { type Sector, sectorBytes, sectorOf, zeroSector } from './sector.ts';

/** The part of a change that falls into one sector. */
export interface SectorPiece {
  /** Number of the change in the list of pending ones. */
  readonly change: number;
  /** First byte within the sector. */
  readonly start: number;
  /** The bytes; undefined for zeros. */
  readonly bytes: Uint8Array | undefined;
  readonly count: number;
}

export interface SectorOptions {
  readonly sector: number;
  readonly contents: readonly Sector[];
  readonly pieces: readonly SectorPiece[];
  /** False where there are more options than were listed. */
  readonly complete: boolean;
}

/** Beyond this, a sector's options are no longer complete. A sector that 10 disjoint parts were written to reaches it. */
const mostOptions = 1024;

export function sectorOptions(
  sector: number,
  durable: Sector,
  pieces: readonly SectorPiece[],
): SectorOptions {
  const list = new ContentList(durable);
  const partial = pieces.filter(({ count }) => count < sectorBytes);
  let complete = true;
  if (partial.length === 0) for (const piece of pieces) list.add(applyPiece(durable, piece));
  else if (areDisjoint(pieces)) complete = addSubsets(list, durable, pieces);
  else complete = addOrderedSubsets(list, durable, pieces);
  return { sector, contents: list.contents, pieces, complete };
}

/** A sector after a piece was written to it. */
export function applyPiece(content: Sector, piece: SectorPiece): Sector {
  const bytes = piece.bytes ?? zeroSector.bytes.subarray(0, piece.count);
  if (piece.count < sectorBytes) return content.patched(piece.start, bytes);
  return piece.bytes === undefined ? zeroSector : sectorOf(bytes.slice());
}

class ContentList {
  readonly contents: Sector[];

  constructor(first: Sector) {
    this.contents = [first];
  }

  get full(): boolean {
    return this.contents.length >= mostOptions;
  }

  add(content: Sector): void {
    if (!this.contents.some((known) => known.sameContent(content))) this.contents.push(content);
  }
}

function areDisjoint(pieces: readonly SectorPiece[]): boolean {
  const sorted = [...pieces].sort((left, right) => left.start - right.start);
  return sorted.every(
    (piece, index) => index === 0 || sorted[index - 1]!.start + sorted[index - 1]!.count <= piece.start,
  );
}

/** Breadth first: each piece doubles the list. */
function addSubsets(list: ContentList, durable: Sector, pieces: readonly SectorPiece[]): boolean {
  let reached = [durable];
  for (const piece of pieces) {
    reached = [...reached, ...reached.map((content) => applyPiece(content, piece))];
    if (reached.length > mostOptions) {
      addInOrder(list, durable, pieces);
      return false;
    }
  }
  for (const content of reached) list.add(content);
  return true;
}

/** Depth first over all sequences of distinct pieces; false where the list filled up. */
function addOrderedSubsets(list: ContentList, durable: Sector, pieces: readonly SectorPiece[]): boolean {
  let steps = 0;
  const visit = (content: Sector, used: number): boolean => {
    list.add(content);
    if (list.full || ++steps > 4 * mostOptions) return false;
    return pieces.every(
      (piece, index) => (used & (1 << index)) !== 0 || visit(applyPiece(content, piece), used | (1 << index)),
    );
  };
  if (pieces.length <= 16 && visit(durable, 0)) return true;
  addInOrder(list, durable, pieces);
  return false;
}

/** The part of an incomplete list that is always there: every prefix, every one alone, every one missing. */
function addInOrder(list: ContentList, durable: Sector, pieces: readonly SectorPiece[]): void {
  let all = durable;
  for (const [index, piece] of pieces.entries()) {
    all = applyPiece(all, piece);
    list.add(all);
    list.add(applyPiece(durable, piece));
    const others = pieces.filter((_, other) => other !== index);
    list.add(others.reduce(applyPiece, durable));
  }
}
