/**
 * One workload on a disk that fails somewhere: what each request was answered, and what the guest was promised.
 *
 * A write that failed, or that was asked for after a failure, may be there later or not: for the oracle it is a write that never
 * ended. A flush that failed promised nothing.
 */

import { hashText, SeededRandom } from '@qcow2/seeded';
import { InvariantError, Qcow2Error } from '@qcow2/spec';
import { expectFound } from '../bitmap-oracle.ts';
import { changeDisk, isDiskOperation } from '../disk-changes.ts';
import { GuestOracle } from '../guest-oracle.ts';
import { describeError } from '../recovery.ts';
import type { OpenSystem, SystemUnderTest } from '../system-under-test.ts';
import {
  contentOf,
  describeOperation,
  type GuestOperation,
  mostGrownClusters,
  type Workload,
} from '../workload.ts';
import type { FailingDisk } from './failing-disk.ts';

export interface FailingRun {
  readonly oracle: GuestOracle;
  /** Requests that were answered with an error, openings and closings among them. */
  readonly refused: number;
  /** Answers that nobody may get. */
  readonly problems: readonly string[];
}

export interface FailingRunOptions {
  /**
   * The system writes again, when it opens, what it finds and what was perhaps never durable [JRN-RECOV-010]. One that does
   * not can not be opened again on a disk whose flush failed, and keep its promises: then the workload ends there.
   */
  readonly reasserts: boolean;
}

export async function runFailing(
  system: SystemUnderTest,
  disk: FailingDisk,
  workload: Workload,
  options: FailingRunOptions,
): Promise<FailingRun> {
  const run = new Run(system, disk, options);
  await run.all(workload);
  return { oracle: run.oracle, refused: run.refused, problems: run.problems };
}

class Run {
  readonly oracle: GuestOracle;
  readonly problems: string[] = [];
  refused = 0;
  readonly #system: SystemUnderTest;
  readonly #disk: FailingDisk;
  readonly #options: FailingRunOptions;
  readonly #random = new SeededRandom(hashText('failing run'));
  #opened: OpenSystem | undefined;
  /** A change has failed since the opening, and was told: nothing is promised any more. */
  #ended = false;

  constructor(system: SystemUnderTest, disk: FailingDisk, options: FailingRunOptions) {
    this.#options = options;
    this.#system = system;
    this.#disk = disk;
    this.oracle = new GuestOracle(system.initialContent());
  }

  async all(workload: Workload): Promise<void> {
    await this.#open();
    const { snapshots } = this.#opened ?? {};
    if (snapshots !== undefined) this.oracle.allowSnapshots(snapshots.names());
    const { bitmaps, firstBacking } = this.#system;
    if (firstBacking !== undefined) this.oracle.allowBacking({ named: firstBacking });
    if (bitmaps !== undefined) this.oracle.allowBitmaps(bitmaps.promise, expectFound(bitmaps.initial));
    for (const [index, operation] of workload.operations.entries()) {
      if (this.#opened === undefined) return;
      if (operation.kind === 'reopen') {
        await this.#close();
        await this.#open();
      } else if (operation.kind === 'kill') {
        this.#opened.abandon();
        this.oracle.kill();
        await this.#open();
        await this.#findBitmaps();
      } else if (operation.kind !== 'damage') await this.#request(this.#opened, operation, index);
    }
    await this.#close();
  }

  async #open(): Promise<void> {
    this.#opened = undefined;
    this.#ended = false;
    if (this.#disk.hasFailedFlush && !this.#options.reasserts) return;
    await this.#attempt('open', async () => {
      const random = (into: Uint8Array): void => this.#random.fill(into);
      this.#opened = await this.#system.open(this.#disk, { random, readOnly: false });
    });
  }

  /**
   * A clean close is a flush. One that fails, or that comes after a failure (and then writes nothing), ends the process: what
   * was not durable may be there or not.
   */
  async #close(): Promise<void> {
    const opened = this.#opened;
    if (opened === undefined) return;
    const startedAt = this.oracle.beginFlush();
    const ended = this.#ended;
    if ((await this.#attempt('close', () => opened.close())) && !ended) {
      this.oracle.endFlush(startedAt);
      this.oracle.endRest(startedAt);
      return;
    }
    opened.abandon();
    this.oracle.kill();
  }

  async #request(
    opened: OpenSystem,
    operation: Exclude<GuestOperation, { kind: 'reopen' | 'kill' | 'damage' }>,
    index: number,
  ): Promise<void> {
    const { oracle } = this;
    const { guest, grow } = opened;
    const what = describeOperation(operation);
    const takesBitmaps = this.#system.bitmaps !== undefined;
    if (isDiskOperation(operation) || (operation.kind === 'grow' && takesBitmaps)) {
      const attempt = (body: () => Promise<unknown>) =>
        this.#attempt(what, async () => {
          await body();
        });
      const watch = { system: this.#system, oracle, note: () => undefined, attempt };
      // It looks at the disk before it asks for a change: that may fail as well.
      await this.#attempt(what, () => changeDisk(opened, operation, index, watch));
      if (operation.kind !== 'rebase') return;
      await this.#close();
      await this.#open();
      return;
    }
    if ('offset' in operation && operation.offset + operation.lengthBytes > guest.sizeBytes) return;
    switch (operation.kind) {
      case 'flush':
        return this.#makeDurable(what, () => guest.flush());
      case 'rest':
        return this.#makeDurable(
          what,
          () => opened.rest(),
          (startedAt) => oracle.endRest(startedAt),
        );
      case 'resize-journal':
        return this.#makeDurable(what, () => opened.resizeJournal?.());
      case 'refcount-width':
        return this.#makeDurable(what, () => opened.changeWidth?.());
      case 'read':
        await this.#attempt(what, () => guest.read(operation.offset, new Uint8Array(operation.lengthBytes)));
        return;
      case 'grow': {
        const before = guest.sizeBytes;
        const sizeBytes = before + operation.clusters * this.#system.clusterBytes;
        const most = this.#system.guestBytes + mostGrownClusters * this.#system.clusterBytes;
        if (sizeBytes > most || grow === undefined) return;
        const token = oracle.beginGrow(before, sizeBytes);
        if (await this.#attempt(what, () => grow(sizeBytes))) oracle.endGrow(token);
        return;
      }
      case 'discard': {
        const { offset, lengthBytes } = operation;
        const token = oracle.beginDiscard(offset, lengthBytes);
        if (await this.#attempt(what, () => guest.discard(offset, lengthBytes)))
          oracle.endWrite(token, false);
        return;
      }
      case 'zeroes': {
        const { offset, lengthBytes, unmap } = operation;
        const token = oracle.beginWrite(offset, lengthBytes, undefined);
        const done = await this.#attempt(what, () =>
          guest.writeZeroes(offset, lengthBytes, { mayUnmap: unmap }),
        );
        if (done) oracle.endWrite(token, false);
        return;
      }
      default: {
        const offset = operation.kind === 'tail' ? guest.sizeBytes - operation.lengthBytes : operation.offset;
        const fua = operation.kind === 'write' && operation.fua;
        const bytes = contentOf(index, offset, operation.lengthBytes);
        const token = oracle.beginWrite(offset, bytes.length, bytes);
        if (await this.#attempt(what, () => guest.write(offset, bytes, { fua }))) oracle.endWrite(token, fua);
      }
    }
  }

  async #makeDurable(
    what: string,
    body: () => void | Promise<void>,
    andThen?: (startedAt: number) => void,
  ): Promise<void> {
    const startedAt = this.oracle.beginFlush();
    if (!(await this.#attempt(what, body))) return;
    this.oracle.endFlush(startedAt);
    andThen?.(startedAt);
  }

  async #findBitmaps(): Promise<void> {
    const { bitmaps } = this.#opened ?? {};
    if (bitmaps === undefined) return;
    await this.#attempt('list the bitmaps', async () => this.oracle.findBitmaps(await bitmaps.list()));
  }

  /** True where it was answered without an error. */
  async #attempt(what: string, body: () => void | Promise<void>): Promise<boolean> {
    try {
      await body();
      return true;
    } catch (error) {
      this.refused++;
      // A read that failed has changed nothing, and ends nothing.
      if (!(error instanceof Qcow2Error) || error.code !== 'READ_FAILED') this.#ended = true;
      const ours = error instanceof Qcow2Error && !(error instanceof InvariantError);
      const cause = error instanceof Error ? error.cause : undefined;
      if (!ours || (cause !== undefined && !(cause instanceof Qcow2Error))) {
        this.problems.push(`${what} was answered with ${describeError(error)} ${cause ?? ''}`);
      }
      return false;
    }
  }
}
