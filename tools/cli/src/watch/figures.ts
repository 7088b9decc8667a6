/** What two samples of a server say of the time between them. */
import { latencyQuantile, type NbdLatencies } from '@qcow2/nbd';
import type { WatchSample } from './sample.ts';

/** Of the interval, unless it says otherwise; undefined where there was nothing to divide by, or nothing to count. */
export interface WatchFigures {
  readonly seconds: number;
  /** at this moment */
  readonly clients: number;
  readonly waitingClients: number;
  readonly requestsPerSecond: number;
  readonly readBytesPerSecond: number;
  readonly writtenBytesPerSecond: number;
  readonly failures: number;
  readonly flushes: number;
  readonly fileSyncs: number | undefined;
  readonly fileSyncsPerFlush: number | undefined;
  readonly latencyMicroseconds: Readonly<Record<'all' | 'read' | 'write' | 'flush', Quantiles | undefined>>;
  /** Of look-ups in the metadata caches and among decompressed clusters, the share that was found. */
  readonly cacheHitShare: number | undefined;
  readonly journal: JournalFigures | undefined;
}

export interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

export interface JournalFigures {
  readonly records: number;
  /** Bytes that were submitted and did not have to be logged, as later ones replaced them. */
  readonly mergedBytes: number | undefined;
  readonly commits: number | undefined;
  /** Callers of a commit, by the mean of its group. */
  readonly callersPerCommit: number | undefined;
  readonly writtenBackBytes: number | undefined;
  /** at this moment: of the ring, the share that is in use */
  readonly ringShare: number | undefined;
  /** at this moment: the age of the oldest record that is not written back */
  readonly lagMs: number;
}

export function figuresBetween(before: WatchSample, now: WatchSample): WatchFigures {
  const seconds = (now.elapsedMs - before.elapsedMs) / 1000;
  const [old, server] = [before.server, now.server];
  const perSecond = (count: number): number => (seconds > 0 ? count / seconds : 0);
  const flushes = server.requests.FLUSH - old.requests.FLUSH;
  const fileSyncs =
    now.fileSyncs === null || before.fileSyncs === null ? undefined : now.fileSyncs - before.fileSyncs;
  return {
    seconds,
    clients: server.connectionsOpen,
    waitingClients: server.connectionsWaiting,
    requestsPerSecond: perSecond(requestsOf(now) - requestsOf(before)),
    readBytesPerSecond: perSecond(server.bytesRead - old.bytesRead),
    writtenBytesPerSecond: perSecond(server.bytesWritten - old.bytesWritten),
    failures: server.failures - old.failures,
    flushes,
    fileSyncs,
    fileSyncsPerFlush: fileSyncs === undefined ? undefined : quotient(fileSyncs, flushes),
    latencyMicroseconds: latenciesBetween(old.latencies, server.latencies),
    cacheHitShare: hitShare(before, now),
    journal: journalBetween(before.journal, now.journal),
  };
}

/** All of them; DISC and CACHE too. */
export function requestsOf({ server }: WatchSample): number {
  return Object.values(server.requests).reduce((sum, count) => sum + count, 0);
}

function latenciesBetween(
  before: NbdLatencies | undefined,
  now: NbdLatencies | undefined,
): WatchFigures['latencyMicroseconds'] {
  const between = (name: keyof NbdLatencies): readonly number[] =>
    (now?.[name] ?? []).map((count, index) => count - (before?.[name][index] ?? 0));
  const [read, write, flush] = (['READ', 'WRITE', 'FLUSH'] as const).map(between) as [
    readonly number[],
    readonly number[],
    readonly number[],
  ];
  const names = Object.keys(now ?? {}).filter((name) => name !== 'DISC') as (keyof NbdLatencies)[];
  const all = names.map(between).reduce<readonly number[]>((sum, counts) => added(sum, counts), []);
  return { all: quantiles(all), read: quantiles(read), write: quantiles(write), flush: quantiles(flush) };
}

function added(one: readonly number[], other: readonly number[]): readonly number[] {
  return other.map((count, index) => count + (one[index] ?? 0));
}

function quantiles(counts: readonly number[]): Quantiles | undefined {
  const [p50, p99] = [latencyQuantile(counts, 0.5), latencyQuantile(counts, 0.99)];
  return p50 === undefined || p99 === undefined ? undefined : { p50, p99 };
}

function hitShare(before: WatchSample, now: WatchSample): number | undefined {
  const sums = [now, before].map(({ cache }) => {
    const all = cache === null ? [] : [cache.l2, cache.refcount, cache.decompressed];
    const hits = all.reduce((sum, each) => sum + each.hits, 0);
    return { hits, looks: hits + all.reduce((sum, each) => sum + each.misses, 0) };
  });
  const [later, earlier] = sums as [(typeof sums)[number], (typeof sums)[number]];
  return quotient(later.hits - earlier.hits, later.looks - earlier.looks);
}

type Journal = NonNullable<WatchSample['journal']>;

function journalBetween(before: Journal | null, now: Journal | null): JournalFigures | undefined {
  if (now === null) return undefined;
  const [old, new_] = [countsOf(before), countsOf(now)];
  const difference = (name: string): number | undefined => {
    const value = new_[name];
    return value === undefined ? undefined : value - (old[name] ?? 0);
  };
  const [submitted, logged] = [difference('submittedBytes'), difference('loggedBytes')];
  const [commits, shared] = [difference('commits'), difference('sharedCommits')];
  const use = now.use as { readonly usedBytes?: number; readonly ringBytes?: number } | undefined;
  return {
    records: difference('records') ?? difference('transactions') ?? 0,
    mergedBytes: submitted === undefined || logged === undefined ? undefined : submitted - logged,
    commits,
    callersPerCommit:
      commits === undefined || shared === undefined ? undefined : quotient(commits + shared, commits),
    writtenBackBytes: difference('writtenBackBytes'),
    ringShare:
      use?.usedBytes === undefined || use.ringBytes === undefined
        ? undefined
        : quotient(use.usedBytes, use.ringBytes),
    lagMs: now.lagMs,
  };
}

/** The counters that are plain numbers, of either profile of journal. */
function countsOf(journal: Journal | null): Readonly<Record<string, number>> {
  const counters = Object.entries(journal?.counters ?? {}) as [string, unknown][];
  return Object.fromEntries(
    counters.filter((entry): entry is [string, number] => typeof entry[1] === 'number'),
  );
}

function quotient(part: number, whole: number): number | undefined {
  return whole > 0 ? part / whole : undefined;
}
