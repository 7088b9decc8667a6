/**
 * What an engine tells of itself: what it has done (counters, since it was opened) and how it stands now
 * (`JournalUse`). Reading them changes nothing, and no behaviour depends on them.
 */

/** What the engine has done since it was opened. */
export interface JournalCounters {
  readonly records: number;
  readonly recordBytes: number;
  /** Guest bytes that went through the log. */
  readonly payloadBytes: number;
  readonly microtransactions: number;
  /** Bytes of host writes as submitted, and as logged after merging: the difference is what merging saved. */
  readonly submittedBytes: number;
  readonly loggedBytes: number;
  /** Flushes of the device asked for by the engine. */
  readonly flushes: number;
  /** Commits done, each for one caller or for a group of them. */
  readonly commits: number;
  /** Callers of `commit` that found themselves covered by another's. */
  readonly sharedCommits: number;
  /** Commits by how many callers each served: index n counts groups of more than 2^(n-1) and at most 2^n. */
  readonly groupSizes: readonly number[];
  /** Host bytes (metadata) that write-back wrote in place. */
  readonly writtenBackBytes: number;
  /** Rounds of write-back begun, and the steps that they took. */
  readonly rounds: number;
  readonly writeBackSteps: number;
  /** Commits that had to wait for a whole round because the ring was full. */
  readonly stalls: number;
  readonly slotWrites: number;
  /** Times that everything was written back and the image marked as clean. */
  readonly quiesces: number;
}

/** The engine's own copy, which it counts in. */
export type CounterCells = { -readonly [name in Exclude<keyof JournalCounters, 'groupSizes'>]: number } & {
  groupSizes: number[];
};

export function newCounters(): CounterCells {
  return {
    records: 0,
    recordBytes: 0,
    payloadBytes: 0,
    microtransactions: 0,
    submittedBytes: 0,
    loggedBytes: 0,
    flushes: 0,
    commits: 0,
    sharedCommits: 0,
    groupSizes: [],
    writtenBackBytes: 0,
    rounds: 0,
    writeBackSteps: 0,
    stalls: 0,
    slotWrites: 0,
    quiesces: 0,
  };
}

/** A commit has served so many callers. */
export function countGroup(counters: CounterCells, callers: number): void {
  const index = Math.ceil(Math.log2(callers));
  while (counters.groupSizes.length <= index) counters.groupSizes.push(0);
  counters.groupSizes[index]!++;
}

/** What the ring holds at this moment. */
export interface JournalUse {
  readonly ringBytes: number;
  readonly blockBytes: number;
  /** Bytes between tail and head: how far write-back is behind, and what recovery would have to read. */
  readonly usedBytes: number;
  /** The most that this was since the journal was opened. */
  readonly highWaterBytes: number;
  readonly tailSequence: number;
  readonly lastSequence: number;
  readonly durableSequence: number;
  /** When the oldest record that is not written back was appended, by the clock of `Date.now`; undefined: none. */
  readonly oldestAppendedMs: number | undefined;
  readonly dirty: boolean;
  /** Host bytes logged, durable and not yet in place. */
  readonly pendingBytes: number;
  /** Guest bytes that no record holds yet. */
  readonly unloggedGuestBytes: number;
}
