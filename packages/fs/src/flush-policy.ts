/**
 * Where to run fdatasync: on the caller's thread, or in the thread pool.
 *
 * On an idle machine with a fast disk the caller's thread is best: fdatasync takes tens of microseconds there, and
 * the way to a pool thread and back takes as much again. Where other processes want the processors the pool can
 * win by far: a thread that computes and waits for the disk by turns uses up its share of the processor, and
 * is then woken late, for its requests as well as from its flushes. On a slow disk, the caller's thread had
 * better serve other requests.
 *
 * None of this can be known beforehand, so the adaptive policy measures: every so often a few flushes in a row run
 * in the other place. What counts is the time from the end of one flush to the end of the next, because a
 * thread that is woken late is late for everything; what the clients do between flushes is in it too, and is the
 * same for both places.
 *
 * `none` is a wish of the caller's: nothing is flushed, and nothing of what is written is promised to outlive the system.
 */
export type FlushMode = 'sync' | 'thread' | 'adaptive' | 'none';
export type FlushPlace = 'sync' | 'thread';

/** Where flushes take this long, the caller's thread is not blocked, even if that were quicker. */
const syncLimitMs = 2;
/** The pool has to be this much quicker: with equal times, the caller's thread computes less. */
const poolMargin = 0.9;
/** Lengths of the runs of flushes in the place that is the rule, and in the other. */
const ruleRun = 96;
const probeRun = 8;
/** How many times are remembered of each kind. Odd, so that the median is one of them. */
const remembered = 15;
/** Fewer say nothing: the pool's threads do not exist before they are used. */
const enough = 9;

export class FlushPolicy {
  readonly #mode: FlushMode;
  /** End of a flush to the end of the next one in the same place. */
  readonly #cyclesMs: Readonly<Record<FlushPlace, number[]>> = { sync: [], thread: [] };
  /** How long flushes on the caller's thread took. */
  readonly #syncMs: number[] = [];
  #rule: FlushPlace;
  #place: FlushPlace;
  #leftInRun = ruleRun;
  #last: { readonly place: FlushPlace; readonly endMs: number } | undefined;

  constructor(mode: FlushMode) {
    this.#mode = mode;
    this.#rule = mode === 'thread' ? 'thread' : 'sync';
    this.#place = this.#rule;
  }

  /** Where the next flush is to run. Asked once for each. */
  next(): FlushPlace {
    if (this.#mode !== 'adaptive') return this.#rule;
    if (this.#leftInRun === 0) this.#turn();
    this.#leftInRun--;
    return this.#place;
  }

  /** Take note of a flush: where it ran, when it was asked for, and when its caller could go on. */
  observe(place: FlushPlace, startMs: number, endMs: number): void {
    if (this.#mode !== 'adaptive') return;
    const durationMs = endMs - startMs;
    if (place === 'sync') remember(this.#syncMs, durationMs);
    if (this.#last?.place === place) remember(this.#cyclesMs[place], endMs - this.#last.endMs);
    this.#last = { place, endMs };
    // A run of slow flushes is not sat out.
    if (this.#leftInRun === 0 || durationMs >= syncLimitMs) this.#decide();
  }

  #decide(): void {
    const rule = this.#better();
    if (rule === this.#rule) return;
    this.#rule = rule;
    this.#place = rule;
    this.#leftInRun = ruleRun;
  }

  /** The run is over: from the rule to the other place, or back. */
  #turn(): void {
    if (this.#place !== this.#rule) {
      this.#place = this.#rule;
      this.#leftInRun = ruleRun;
      return;
    }
    this.#place = this.#rule === 'sync' ? 'thread' : 'sync';
    // One is enough to see whether the disk is still slow, and blocks the others no longer than it must.
    this.#leftInRun = this.#place === 'sync' && this.#isSlow() ? 1 : probeRun;
  }

  #better(): FlushPlace {
    if (this.#isSlow()) return 'thread';
    const { sync, thread } = this.#cyclesMs;
    if (thread.length < enough || sync.length < enough) return this.#rule;
    return medianOf(thread) < poolMargin * medianOf(sync) ? 'thread' : 'sync';
  }

  #isSlow(): boolean {
    return medianOf(this.#syncMs) >= syncLimitMs;
  }
}

function remember(times: number[], ms: number): void {
  times.push(ms);
  if (times.length > remembered) times.shift();
}

/** 0 of nothing. */
function medianOf(times: readonly number[]): number {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
