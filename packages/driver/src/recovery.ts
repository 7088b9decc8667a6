/**
 * Best effort from a damaged image: its disk, readable as far as there is anything to read, with a word on every range: found, found by a
 * guess and by which, or lost. Nothing is ever written to the image ([ADR 34](../../../docs/adr/0034-recovery-by-evidence.md)).
 *
 *   1. The header as it stands; where it does not decode, or its tables contradict the refcounts all over, one of those that a scan finds, and of all the
 *      one with the least contradictions (`recovery-header.ts`).
 *   2. The mapping is asked for evidence (`recovery-survey.ts`).
 *   3. Entries that are one bit away from a place in use that nothing leads to are mended; L2 tables without a place are placed where a snapshot has them, or where there is
 *      only one table and only one place. After each the survey is made again, and what did not take contradictions away is taken back.
 *   4. The driver reads the rest, as from any image: journal, snapshots' sharing, compression, sub-clusters, backing files.
 *
 * Header and tables that are changed stand in memory, over the file. What can not be known is not said: an L2 table does not say which part of the disk it maps.
 */
import { type BlockDevice, run } from '@qcow2/block-device';
import type { ClusterCompression, Qcow2Header } from '@qcow2/codec';
import { Qcow2Error } from '@qcow2/spec';
import { Qcow2Image } from './image.ts';
import { openParts } from './open.ts';
import { type Attempt, bestAttempt, patched } from './recovery-attempt.ts';
import type { HeaderHints } from './recovery-header.ts';
import { mend } from './recovery-mend.ts';
import { isLost, type Verdict, verdicts, verdictWords } from './recovery-verdicts.ts';
import { SalvageDevice } from './salvage-device.ts';

export interface RecoverOptions extends HeaderHints {
  /** Take what the tables say also where other evidence contradicts it; told as a guess. */
  readonly guess?: boolean;
  /** Opens what the header names as its backing file; undefined: it is not there. */
  readonly backing?: (header: Qcow2Header) => Promise<BlockDevice | undefined>;
  readonly compression?: ClusterCompression;
}

export interface RecoveredRange {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly state: 'found' | 'guess' | 'lost';
  /** By what it was found, or why it is lost: an id, and words. */
  readonly why: { readonly id: string; readonly text: string };
  /** `data`: to be read; `zero`: known to be zeros, or filled with them. */
  readonly kind: 'data' | 'zero';
}

export interface RecoveredDisk {
  /** Reads the disk. Closing it closes the file and the backing device. */
  readonly image: Qcow2Image;
  /** What of the header was guessed, in words. */
  readonly guesses: readonly string[];
  /** What the image had and this does not: its journal, snapshots. */
  readonly without: readonly string[];
  /** Clusters in use that nothing leads to. */
  readonly orphans: number;
  /** The disk from its begin to its end, without gaps. */
  ranges(): AsyncGenerator<RecoveredRange, void, undefined>;
}

/**
 * @param file only read
 * @throws UNSUPPORTED_FEATURE for encrypted images and external data files; BAD_FIELD where no L1 table is found at all
 */
export async function recoverDisk(file: BlockDevice, options: RecoverOptions = {}): Promise<RecoveredDisk> {
  const lenient = new SalvageDevice(file, false);
  const attempt = await bestAttempt(lenient, options);
  const mended = await mend(lenient, attempt);
  return await openRecovered(file, lenient, mended, options);
}

async function openRecovered(
  file: BlockDevice,
  lenient: SalvageDevice,
  attempt: Attempt,
  options: RecoverOptions,
): Promise<RecoveredDisk> {
  const { header } = attempt.found;
  const named = (header.backingFileName ?? '') !== '';
  const backing = named ? await options.backing?.(header) : undefined;
  const device = await patched(new SalvageDevice(file, true, lenient.unreadable), attempt.patches);
  const { compression } = options;
  const parts = await run(
    openParts(device, {
      readOnly: true,
      backing: backing ?? 'none',
      ...(compression === undefined ? {} : { compression }),
    }),
  );
  const image = new Qcow2Image(parts);
  const isShown =
    attempt.found.backingUnknown || (named && backing === undefined) ? verdicts.backingMissing : undefined;
  const reading = new Reading(image, attempt, { ...options, hasBacking: backing !== undefined, isShown });
  return {
    image,
    guesses: attempt.found.guesses,
    without: attempt.without,
    orphans: attempt.survey.orphanCount,
    ranges: () => reading.ranges(),
  };
}

interface ReadingOptions {
  readonly guess?: boolean;
  readonly hasBacking: boolean;
  /** Why what is unmapped is lost whatever the tables say. */
  readonly isShown: Verdict | undefined;
}

const askedBytes = 64 * 2 ** 20;

const contradicted: readonly Verdict[] = [
  verdicts.usedTwice,
  verdicts.inMetadata,
  verdicts.countedFree,
  verdicts.uncounted,
  verdicts.unmappedInDoubt,
];

/** The disk in ranges. */
class Reading {
  readonly #image: Qcow2Image;
  readonly #attempt: Attempt;
  readonly #options: ReadingOptions;

  constructor(image: Qcow2Image, attempt: Attempt, options: ReadingOptions) {
    this.#image = image;
    this.#attempt = attempt;
    this.#options = options;
  }

  async *ranges(): AsyncGenerator<RecoveredRange, void, undefined> {
    const { sizeBytes, clusterBytes } = this.#image;
    const clusters = Math.ceil(sizeBytes / clusterBytes);
    const map = this.#attempt.survey.verdicts;
    for (let cluster = 0; cluster < clusters; ) {
      const most = Math.min(clusters, cluster + Math.max(1, askedBytes / clusterBytes));
      const count = map.runLength(cluster, most);
      const offset = cluster * clusterBytes;
      const lengthBytes = Math.min(count * clusterBytes, sizeBytes - offset);
      const verdict = this.#weighed(map.get(cluster));
      if (isLost(verdict)) yield this.#range(offset, lengthBytes, verdict, 'zero');
      else yield* this.#mapped(offset, lengthBytes, verdict);
      cluster += count;
    }
  }

  /** With `guess` what tables say goes before what contradicts them. */
  #weighed(verdict: Verdict): Verdict {
    if (verdict === verdicts.uncounted && this.#attempt.survey.orphanCount === 0) return verdicts.found;
    return this.#options.guess === true && contradicted.includes(verdict) ? verdicts.contradicted : verdict;
  }

  async *#mapped(
    offset: number,
    lengthBytes: number,
    verdict: Verdict,
  ): AsyncGenerator<RecoveredRange, void, undefined> {
    const { clusterBytes } = this.#image;
    const end = offset + lengthBytes;
    for (let at = offset; at < end; ) {
      let extents: Awaited<ReturnType<Qcow2Image['extents']>>;
      try {
        extents = await this.#image.extents(at, end - at);
      } catch (error) {
        if (!(error instanceof Qcow2Error)) throw error;
        if (end - at <= clusterBytes) {
          yield this.#range(at, end - at, verdicts.entryDamaged, 'zero');
          return;
        }
        const half = at + Math.ceil((end - at) / clusterBytes / 2) * clusterBytes;
        yield* this.#mapped(at, half - at, verdict);
        at = half;
        continue;
      }
      for (const extent of extents) {
        if (extent.kind === 'hole') yield this.#unmapped(extent.offset, extent.lengthBytes);
        else yield* this.#placed(extent.offset, extent.lengthBytes, verdict, extent.kind);
        at = extent.offset + extent.lengthBytes;
      }
    }
  }

  #unmapped(offset: number, lengthBytes: number): RecoveredRange {
    const { isShown, hasBacking } = this.#options;
    const { orphanCount, explained } = this.#attempt.survey;
    const doubt = orphanCount <= explained ? verdicts.unmappedExplained : verdicts.unmappedInDoubt;
    const verdict = isShown ?? (orphanCount === 0 ? this.#general : this.#weighed(doubt));
    return this.#range(offset, lengthBytes, verdict, hasBacking && !isLost(verdict) ? 'data' : 'zero');
  }

  /** Cluster by cluster only where a guess is about single ones. */
  *#placed(
    offset: number,
    lengthBytes: number,
    verdict: Verdict,
    kind: 'data' | 'zero',
  ): Generator<RecoveredRange> {
    const { clusters, slots } = this.#attempt;
    if (clusters.size === 0 && slots.size === 0) {
      yield this.#range(offset, lengthBytes, verdict === verdicts.found ? this.#general : verdict, kind);
      return;
    }
    const { clusterBytes } = this.#image;
    const { l2Entries } = this.#attempt.parts.core;
    for (let at = offset; at < offset + lengthBytes; ) {
      const end = Math.min(offset + lengthBytes, (Math.floor(at / clusterBytes) + 1) * clusterBytes);
      const cluster = Math.floor(at / clusterBytes);
      const guess = clusters.get(cluster) ?? slots.get(Math.floor(cluster / l2Entries));
      yield this.#range(at, end - at, verdict !== verdicts.found ? verdict : (guess ?? this.#general), kind);
      at = end;
    }
  }

  /** Of everything that is found. */
  get #general(): Verdict {
    if (this.#attempt.without.includes('the journal')) return verdicts.journalLost;
    return this.#attempt.isOwn ? verdicts.found : verdicts.headerGuessed;
  }

  #range(offset: number, lengthBytes: number, verdict: Verdict, kind: 'data' | 'zero'): RecoveredRange {
    const state = isLost(verdict) ? 'lost' : verdict === verdicts.found ? 'found' : 'guess';
    return { offset, lengthBytes, state, why: verdictWords[verdict], kind };
  }
}
