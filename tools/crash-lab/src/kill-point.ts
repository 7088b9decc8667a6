/**
 * The process dies in the middle of a workload, the machine goes on: what it had written stands in the page cache,
 * durable or not. The system is opened again and recovers from that; then the machine crashes too.
 *
 * What this asks: a recovery that reads what is not durable must make it durable before it relies on it. A crash in
 * such a recovery may lose writes of the process that died, and keep writes of the one that recovers.
 */
import type { RecordedOperation } from '@qcow2/block-device';
import { applyChange, type CrashPoint, type CrashTimeline } from './crash-point.ts';
import type { SectorImage } from './sector-image.ts';

/** What the next process finds: everything that was asked for, whole and in order. */
export function liveImage(point: CrashPoint): SectorImage {
  const image = point.durable.clone();
  for (const change of point.pending) applyChange(image, change);
  return image;
}

/**
 * The dead process's writes that no flush covers, then the operations of the recovery.
 * @param recovery its device operations, recorded from time 0 on
 */
export function killTimeline(point: CrashPoint, recovery: readonly RecordedOperation[]): CrashTimeline {
  const before = point.pending.map((change) => ({ ...change, startedAt: 0, completedAt: 0 }));
  const after = recovery.map((operation) => ({
    ...operation,
    startedAt: operation.startedAt + 1,
    completedAt: operation.completedAt === undefined ? undefined : operation.completedAt + 1,
  }));
  return { base: point.durable, log: [...before, ...after], allowed: [] };
}
