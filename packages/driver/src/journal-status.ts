import type { JournalCounters, JournalUse } from '@qcow2/journal';

/** What is known of an image's journal. */
export interface JournalStatus {
  readonly version: number;
  readonly profile: 'v1';
  readonly hostOffset: number;
  readonly lengthBytes: number;
  /** Undefined where the area could not be read. */
  readonly blockBytes: number | undefined;
  /**
   * `clean`: nothing to replay; `dirty`: the journal must be replayed before anybody else opens the image;
   * `stale`: a writer that does not know journals has been here, and a new one is made at the next open.
   */
  readonly state: 'clean' | 'dirty' | 'stale';
  /** Only of an image that is open for writing. */
  readonly use: JournalUse | undefined;
  readonly counters: JournalCounters | undefined;
  /** What replay found when the image was opened dirty. */
  readonly replayed: { readonly records: number; readonly payloadBytes: number } | undefined;
}
