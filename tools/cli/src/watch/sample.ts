/**
 * What a server tells those who watch it: everything that it has counted since it began, as JSON. Whoever wants rates takes the
 * difference of two samples; so nobody who watches disturbs another, and a sample that is lost costs nothing.
 */
import type { ImageCacheCounters, JournalStatus } from '@qcow2/driver';
import type { NbdServerCounters } from '@qcow2/nbd';
import type { ServedImage } from '../served-image.ts';

export interface WatchSample {
  /** Of this form; another one is not understood. */
  readonly version: 1;
  readonly image: string;
  readonly process: number;
  /** Since the server began, by a clock that only goes forward. */
  readonly elapsedMs: number;
  readonly server: NbdServerCounters;
  /** Calls of fdatasync on the image's files; null where there are none on this machine. */
  readonly fileSyncs: number | null;
  /** Null for a raw file. */
  readonly cache: ImageCacheCounters | null;
  /** Null for an image without a journal, and one that is only read. */
  readonly journal: (Pick<JournalStatus, 'profile' | 'use' | 'counters'> & { readonly lagMs: number }) | null;
}

const formVersion = 1;

/** @param startedMs when the server began, by the clock of `performance.now` */
export function takeSample(
  name: string,
  image: ServedImage,
  server: NbdServerCounters,
  startedMs: number,
): WatchSample {
  return {
    version: formVersion,
    image: name,
    process: process.pid,
    elapsedMs: performance.now() - startedMs,
    server,
    fileSyncs: image.fileSyncs() ?? null,
    cache: image.image?.cacheCounters() ?? null,
    journal: journalOf(image.image?.journalStatus()),
  };
}

function journalOf(status: JournalStatus | undefined): WatchSample['journal'] {
  if (status?.use === undefined || status.counters === undefined) return null;
  const { profile, use, counters } = status;
  const oldest = 'oldestAppendedMs' in use ? use.oldestAppendedMs : undefined;
  const lagMs = oldest === undefined ? 0 : Math.max(0, Date.now() - oldest);
  return { profile, use, counters, lagMs } as WatchSample['journal'];
}

/** @returns undefined for a line that is no sample of this form */
export function parseSample(line: string): WatchSample | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const isSample =
      value !== null && typeof value === 'object' && 'version' in value && value.version === formVersion;
    return isSample ? (value as WatchSample) : undefined;
  } catch {
    return undefined;
  }
}
