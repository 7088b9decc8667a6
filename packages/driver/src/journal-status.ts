import type { DraftCounters, DraftUse, JournalCounters, JournalUse } from '@qcow2/journal';

/** The two kinds of journal: ours, and that of the draft of 2013. */
export type JournalProfile = 'v1' | 'draft-2013';

/** What is known of an image's journal. `use` and `counters` are of an image that is open for writing. */
export type JournalStatus = JournalState &
  (
    | {
        readonly profile: 'v1';
        readonly use: JournalUse | undefined;
        readonly counters: JournalCounters | undefined;
      }
    | {
        readonly profile: 'draft-2013';
        readonly use: DraftUse | undefined;
        readonly counters: DraftCounters | undefined;
      }
  );

interface JournalState {
  /** Of the journal extension; the draft has none. */
  readonly version: number | undefined;
  readonly hostOffset: number;
  readonly lengthBytes: number;
  /** Undefined where the area could not be read. */
  readonly blockBytes: number | undefined;
  /**
   * `clean`: nothing to replay; `dirty`: the journal must be replayed before anybody else opens the image;
   * `stale`: a writer that does not know journals has been here, and a new one is made at the next open.
   */
  readonly state: 'clean' | 'dirty' | 'stale';
  /** What replay found when the image was opened dirty: records, or transactions of the draft. */
  readonly replayed: { readonly records: number; readonly payloadBytes: number } | undefined;
}

/** Sizes of a journal; see `createImage` for what is taken where one is not given. */
export interface JournalSizes {
  /** 64 KiB to 1 GiB; rounded up to whole clusters. */
  readonly sizeBytes?: number;
  /** A power of two from 512 to the cluster size. */
  readonly blockBytes?: number;
}
