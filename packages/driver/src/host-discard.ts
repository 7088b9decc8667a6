/**
 * Giving the space of freed clusters back to the device below, where the caller wants it: a file gets holes.
 *
 * A cluster comes here when it could be handed out: the change that freed it is durable, the reads that began before
 * have ended [JRN-COMMIT-009], and no live copy has it for its source [JRN-COPY-004]. From there on whoever gets it may
 * overwrite it; that it reads as zeros first takes nothing from anybody, whatever a crash leaves of it. It is handed
 * out when the discard is done, because of two requests that overlap either may be the last.
 *
 * A discard that fails costs space and nothing else. The first one that does is the last one that is tried.
 */
import { type BlockDevice, isPromise } from '@qcow2/block-device';

/**
 * Why a cluster is free: a guest gave it back (a discard, or zeros that may unmap); a snapshot had it, or the end of a disk that was cut
 * off; or anything else, a mapping that was replaced above all.
 */
export type FreeCause = 'request' | 'snapshot' | 'other';

/** Of which of them the device below is told. QEMU: `pass-discard-request` and so on. */
export type PassDiscard = Readonly<Record<FreeCause, boolean>>;

export class HostDiscard {
  readonly #device: BlockDevice;
  readonly #clusterBytes: number;
  readonly #passes: PassDiscard;
  #failed = false;

  constructor(device: BlockDevice, clusterBytes: number, passes: PassDiscard) {
    this.#device = device;
    this.#clusterBytes = clusterBytes;
    this.#passes = passes;
  }

  passes(cause: FreeCause): boolean {
    return this.#passes[cause];
  }

  /**
   * @param clusters in any order
   * @param handOut called once for each of them, in runs, when it may be handed out: before this returns where the
   *   device is synchronous
   */
  give(clusters: readonly number[], handOut: (run: readonly number[]) => void): void {
    for (const run of inRuns(clusters)) {
      const done = this.#discard(run[0]!, run.length);
      if (isPromise(done)) void done.then(() => handOut(run));
      else handOut(run);
    }
  }

  /** Never fails, and never rejects. */
  #discard(first: number, count: number): void | Promise<void> {
    const offset = first * this.#clusterBytes;
    // The file may be shorter than what was freed: nothing ever stood there.
    const end = Math.min(offset + count * this.#clusterBytes, this.#device.sizeBytes);
    if (this.#failed || end <= offset) return;
    const failed = (): void => {
      this.#failed = true;
    };
    try {
      const done = this.#device.discard(offset, end - offset);
      if (isPromise(done)) return done.catch(failed);
    } catch {
      failed();
    }
  }
}

/** Neighbours together, in order. */
function inRuns(clusters: readonly number[]): number[][] {
  const runs: number[][] = [];
  for (const cluster of clusters.toSorted((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last?.at(-1) === cluster - 1) last.push(cluster);
    else runs.push([cluster]);
  }
  return runs;
}
