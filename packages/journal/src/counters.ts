/** What the engine has done since it was opened. */
export interface JournalCounters {
  readonly records: number;
  readonly recordBytes: number;
  /** Guest bytes that went through the log. */
  readonly payloadBytes: number;
  readonly microtransactions: number;
  /** Bytes of host writes as submitted, and as logged after merging. */
  readonly submittedBytes: number;
  readonly loggedBytes: number;
  /** Flushes of the device asked for by the engine. */
  readonly flushes: number;
  readonly commits: number;
  /** Commits that found themselves covered by another's. */
  readonly sharedCommits: number;
  readonly writtenBackBytes: number;
  readonly rounds: number;
  /** Commits that had to wait for write-back because the ring was full. */
  readonly stalls: number;
  readonly slotWrites: number;
}

/** The engine's own copy, which it counts in. */
export type CounterCells = { -readonly [name in keyof JournalCounters]: JournalCounters[name] };

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
    writtenBackBytes: 0,
    rounds: 0,
    stalls: 0,
    slotWrites: 0,
  };
}

/** What the ring holds at this moment. */
export interface JournalUse {
  readonly usedBytes: number;
  readonly ringBytes: number;
  readonly blockBytes: number;
  readonly tailSequence: number;
  readonly lastSequence: number;
  readonly durableSequence: number;
  readonly dirty: boolean;
  /** Host bytes logged and not yet in place. */
  readonly pendingBytes: number;
}
