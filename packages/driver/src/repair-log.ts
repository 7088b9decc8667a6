/**
 * What a repair does to an image: changes handed to its metadata log in pieces that the log has room for, and the list of
 * what was put right.
 */
import type { Task } from '@qcow2/block-device';
import type { WriteStep } from '@qcow2/cache';
import { hostOffset } from '@qcow2/spec';
import type { MetadataWrite } from './metadata-log.ts';
import type { ImageParts } from './parts.ts';
import type { RepairFix, RepairReport } from './repair.ts';

/** Bytes of one write: however large a table is, the smallest journal has room for some of them. */
const pieceBytes = 512;
/** What a write takes in a record beside its bytes. */
const headBytes = 32;

export class RepairLog {
  readonly #parts: ImageParts;
  readonly #maxFixes: number;
  readonly #fixes: RepairFix[] = [];
  #corruptionsFixed = 0;
  #leaksFixed = 0;
  #writes: MetadataWrite[] = [];
  #bytes = 0;

  constructor(parts: ImageParts, maxFixes: number) {
    this.#parts = parts;
    this.#maxFixes = maxFixes;
  }

  get report(): Pick<RepairReport, 'fixes' | 'corruptionsFixed' | 'leaksFixed'> {
    return {
      fixes: this.#fixes,
      corruptionsFixed: this.#corruptionsFixed,
      leaksFixed: this.#leaksFixed,
    };
  }

  fixed(
    severity: RepairFix['severity'],
    message: string,
    where: Omit<RepairFix, 'severity' | 'message'>,
  ): void {
    if (severity === 'leak') this.#leaksFixed++;
    else this.#corruptionsFixed++;
    if (this.#fixes.length < this.#maxFixes) this.#fixes.push({ severity, message, ...where });
  }

  /** Change bytes of a table. Each write stands for itself: a crash may keep any of them, in the order of their steps. */
  *write(step: WriteStep, at: number, bytes: Uint8Array): Task<void> {
    for (let from = 0; from < bytes.length; from += pieceBytes) {
      const piece = bytes.slice(from, from + pieceBytes);
      if (this.#bytes + piece.length + headBytes > this.#parts.core.log.changeBytes / 2)
        yield* this.#submit();
      this.#writes.push({ step, hostOffset: hostOffset(at + from), bytes: piece });
      this.#bytes += piece.length + headBytes;
    }
  }

  /** Everything handed over so far is durable on return, and so is what was written in place. */
  *commit(): Task<void> {
    yield* this.#submit();
    yield* this.#parts.core.log.commit();
  }

  *#submit(): Task<void> {
    const writes = this.#writes;
    if (writes.length === 0) return;
    this.#writes = [];
    this.#bytes = 0;
    const { log } = this.#parts.core;
    // Nobody else has the image: no lock is held.
    if (log.isBacklogged) yield* log.commit();
    log.submit({ writes, revokes: [], settled: [], required: true, afterData: true });
  }
}

/** Changed bytes of a table, gathered in ascending order into few writes: neighbours, and what is close, are one. */
export class ChangedBytes {
  readonly runs: { start: number; end: number }[] = [];

  note(start: number, lengthBytes: number): void {
    const last = this.runs.at(-1);
    if (last !== undefined && start <= last.end + headBytes)
      last.end = Math.max(last.end, start + lengthBytes);
    else this.runs.push({ start, end: start + lengthBytes });
  }

  *writeTo(log: RepairLog, step: WriteStep, tableOffset: number, view: DataView): Task<void> {
    for (const { start, end } of this.runs) {
      const bytes = new Uint8Array(view.buffer, view.byteOffset + start, end - start);
      yield* log.write(step, tableOffset + start, bytes);
    }
  }
}
