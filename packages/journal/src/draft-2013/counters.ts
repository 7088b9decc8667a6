/**
 * What the draft's engine tells of itself: what it has done since it was opened, and how it stands now. Reading it
 * changes nothing, and no behaviour depends on it.
 */

/** What the engine has done since it was opened. */
export interface DraftCounters {
  readonly transactions: number;
  /** Bytes of the transactions, descriptor blocks and padding included. */
  readonly transactionBytes: number;
  readonly microtransactions: number;
  /** Bytes of host writes as submitted, and as logged after merging. */
  readonly submittedBytes: number;
  readonly loggedBytes: number;
  readonly flushes: number;
  readonly commits: number;
  /** Commits that found themselves covered by another's. */
  readonly sharedCommits: number;
  readonly headerWrites: number;
  readonly writtenBackBytes: number;
  readonly copiedBytes: number;
  readonly rounds: number;
  /** Commits that had to wait for execution in place because the ring was full. */
  readonly stalls: number;
}

/** The engine's own copy, which it counts in. */
export type DraftCounterCells = { -readonly [name in keyof DraftCounters]: number };

export function newDraftCounters(): DraftCounterCells {
  return {
    transactions: 0,
    transactionBytes: 0,
    microtransactions: 0,
    submittedBytes: 0,
    loggedBytes: 0,
    flushes: 0,
    commits: 0,
    sharedCommits: 0,
    headerWrites: 0,
    writtenBackBytes: 0,
    copiedBytes: 0,
    rounds: 0,
    stalls: 0,
  };
}

/** What the ring holds at this moment. */
export interface DraftUse {
  readonly usedBytes: number;
  readonly ringBytes: number;
  readonly blockBytes: number;
  readonly committedSequence: number;
  readonly syncedSequence: number;
  readonly dirty: boolean;
  /** Host bytes committed and not yet in place. */
  readonly pendingBytes: number;
}
