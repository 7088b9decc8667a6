/**
 * What a recovery says of each guest cluster: found, found by a guess and by which, or lost and why.
 *
 * A byte for each guest cluster, in pieces that exist only where something is to be said: memory goes with the damage, and is at most the size
 * of the disk divided by that of a cluster.
 */

/** Why the bytes of a range are not what the image alone would show. */
export const verdicts = {
  found: 0,
  // Lost.
  entryDamaged: 1,
  tableLost: 2,
  beyondFile: 3,
  usedTwice: 4,
  countedFree: 5,
  unreadable: 6,
  unmappedInDoubt: 7,
  backingMissing: 8,
  notDecoded: 9,
  inMetadata: 10,
  uncounted: 11,
  // Guesses.
  placedBySnapshot: 32,
  placedAsOnly: 33,
  unmappedExplained: 34,
  contradicted: 35,
  headerGuessed: 36,
  journalLost: 37,
  oneBit: 38,
} as const;

export type Verdict = (typeof verdicts)[keyof typeof verdicts];

/** For people; stable ids for programs. */
export const verdictWords: Readonly<Record<Verdict, { readonly id: string; readonly text: string }>> = {
  0: { id: 'found', text: 'by the tables of the image' },
  1: { id: 'entry-damaged', text: 'the L2 entry is damaged' },
  2: { id: 'table-lost', text: 'the L2 table, or the entry that leads to it, is damaged' },
  3: { id: 'beyond-file', text: 'the file ends before it' },
  4: { id: 'used-twice', text: 'something else has the same place in the file' },
  5: { id: 'counted-free', text: 'the refcounts say that nothing stands there' },
  6: { id: 'unreadable', text: 'the file can not be read there' },
  7: {
    id: 'unmapped-in-doubt',
    text: 'nothing is mapped, and places in use are mapped nowhere: what stands there may belong here',
  },
  8: { id: 'backing-missing', text: 'it shows a backing file that is not there' },
  9: { id: 'not-decoded', text: 'compressed data that does not decompress' },
  10: { id: 'in-metadata', text: 'a table of the image has the same place in the file' },
  11: {
    id: 'uncounted',
    text: 'its refcount is lost, and places in use are mapped nowhere: the entry may be another than it was',
  },
  32: { id: 'placed-by-snapshot', text: 'its L2 table is where a snapshot has it, with one reference more' },
  33: { id: 'placed-as-only', text: 'the only L2 table without a place, in the only place without one' },
  34: {
    id: 'unmapped-explained',
    text: 'nothing is mapped; places in use without a mapping are no more than damaged entries explain',
  },
  35: { id: 'contradicted', text: 'as the tables say, against other evidence' },
  36: { id: 'header-guessed', text: 'by tables that were found, or measures that were guessed' },
  37: {
    id: 'journal-lost',
    text: 'without the journal, which can not be replayed: older bytes may stand there',
  },
  38: {
    id: 'one-bit',
    text: 'the entry was one bit away from a place in use that nothing else leads to',
  },
};

export function isLost(verdict: Verdict): boolean {
  return verdict > 0 && verdict < 32;
}

const pieceClusters = 65_536;

export class VerdictMap {
  readonly #pieces = new Map<number, Uint8Array>();

  get(guestCluster: number): Verdict {
    const piece = this.#pieces.get(Math.floor(guestCluster / pieceClusters));
    return (piece?.[guestCluster % pieceClusters] ?? 0) as Verdict;
  }

  /** The first word on a cluster stands. */
  set(guestCluster: number, verdict: Verdict): void {
    const number = Math.floor(guestCluster / pieceClusters);
    let piece = this.#pieces.get(number);
    if (piece === undefined) {
      piece = new Uint8Array(pieceClusters);
      this.#pieces.set(number, piece);
    }
    if (piece[guestCluster % pieceClusters] === 0) piece[guestCluster % pieceClusters] = verdict;
  }

  setRange(first: number, count: number, verdict: Verdict): void {
    for (let cluster = first; cluster < first + count; cluster++) this.set(cluster, verdict);
  }

  /** How many clusters from `first` on, `end` not included, have the word that it has. */
  runLength(first: number, end: number): number {
    const verdict = this.get(first);
    let at = first + 1;
    while (at < end) {
      const isBlank = verdict === 0 && !this.#pieces.has(Math.floor(at / pieceClusters));
      if (isBlank) at = Math.min(end, (Math.floor(at / pieceClusters) + 1) * pieceClusters);
      else if (this.get(at) === verdict) at++;
      else break;
    }
    return at - first;
  }
}
