/**
 * I/O errors, one at a time: every read, write and flush of a workload fails, in every way. After each:
 *
 * - whoever waited got an answer, an error of ours; and where a fault struck, somebody got an error (G7);
 * - the image opens again, on the disk as it can be read, and its structure is whole;
 * - after a crash too, whatever it leaves: before the image is opened again, and after that;
 * - what was acknowledged is there: what a flush promised before the failure, and what one promises after it.
 */

import { hashText, SeededRandom } from '@qcow2/seeded';
import { describeViolation } from '../explorer.ts';
import { type Problem, type RecoveryDepth, recover } from '../recovery.ts';
import { SectorDevice } from '../sector-device.ts';
import { SectorImage } from '../sector-image.ts';
import type { SystemUnderTest } from '../system-under-test.ts';
import type { LabSystem } from '../systems.ts';
import { namedWorkload, type Workload } from '../workload.ts';
import { FailingDisk, type Keeping } from './failing-disk.ts';
import { type FailingRun, type FailingRunOptions, runFailing } from './failing-run.ts';
import { type FaultKind, faultKinds } from './fault-kind.ts';

export interface FaultCase {
  readonly workload: string;
  readonly kind: string;
  /** Which of the operations of that kind fails first, from 1 on. */
  readonly nth: number;
}

export interface CaseFailure {
  readonly id: string;
  readonly message: string;
}

export interface FaultTally {
  cases: number;
  /** Disks that were opened again and judged. */
  disks: number;
}

const light: RecoveryDepth = { reopen: false, twice: false, readOnly: false };

export function formatCase(system: string, { workload, kind, nth }: FaultCase): string {
  return `${system}/${workload}#${kind}.${nth}`;
}

/** The system's name and the case; undefined where the text is none. */
export function parseCase(text: string): { readonly system: string; readonly fault: FaultCase } | undefined {
  const parts = /^([\w+-]+)\/([\w.]+)#([\w-]+)\.(\d+)$/.exec(text);
  if (parts === null) return undefined;
  const [, system = '', workload = '', kind = '', nth] = parts;
  return { system, fault: { workload, kind, nth: Number(nth) } };
}

/** One request at a time, and no more than a few: what the oracle knows of requests that overlap is the crash lab's business. */
export function oneByOne(workload: Workload): Workload {
  return {
    ...workload,
    operations: workload.operations.slice(0, mostOperations),
    concurrency: 1,
    disturbed: false,
  };
}

const mostOperations = 16;

/** Whether a system keeps its promises when it is opened again on a disk whose flush failed. */
export function optionsFor({ mode }: LabSystem): FailingRunOptions {
  return { reasserts: mode === 'journal' };
}

export class IoErrors {
  readonly tally: FaultTally = { cases: 0, disks: 0 };
  readonly failures: CaseFailure[] = [];
  readonly #system: SystemUnderTest;
  readonly #options: FailingRunOptions;
  readonly #diskOf: (image: SectorImage) => FailingDisk;
  #base: SectorImage | undefined;

  /** @param diskOf makes the disk that fails; tests plant worse ones */
  constructor(
    system: SystemUnderTest,
    options: FailingRunOptions,
    diskOf = (image: SectorImage): FailingDisk => new FailingDisk(image),
  ) {
    this.#system = system;
    this.#options = options;
    this.#diskOf = diskOf;
  }

  /** Every case of a workload: as many as it has operations of each kind when nothing fails. */
  async casesOf(workload: Workload): Promise<FaultCase[]> {
    const disk = this.#diskOf((await this.#start()).clone());
    const counters = new Map<FaultKind, { readonly matches: number }>();
    for (const kind of faultKinds) counters.set(kind, disk.count(kind.operation));
    const { refused } = await runFailing(this.#system, disk, oneByOne(workload), this.#options);
    if (refused > 0) this.#fail(`${this.#system.name}/${workload.name}`, 'it fails without a fault');
    return faultKinds.flatMap((kind) =>
      Array.from({ length: counters.get(kind)!.matches }, (_, index) => ({
        workload: workload.name,
        kind: kind.name,
        nth: index + 1,
      })),
    );
  }

  async run(fault: FaultCase): Promise<void> {
    const id = formatCase(this.#system.name, fault);
    const kind = faultKinds.find(({ name }) => name === fault.kind);
    if (kind === undefined) {
      this.#fail(id, 'there is no such fault');
      return;
    }
    this.tally.cases++;
    const disk = this.#diskOf((await this.#start()).clone());
    const rule = disk.addRule(kind.rule(fault.nth));
    const workload = oneByOne(namedWorkload(this.#system, fault.workload));
    const run = await runFailing(this.#system, disk, workload, this.#options);
    for (const problem of run.problems) this.#fail(id, problem);
    const mustBeHeard = rule.strikes > 0 && kind.mayBeAbsorbed !== true;
    if (mustBeHeard && run.refused === 0) this.#fail(id, 'nobody heard of the fault');
    rule.remove();
    const random = new SeededRandom(hashText(id));
    for (const keeping of ['nothing', 'some', 'some'] as const) {
      await this.#judge(id, `a crash (${keeping})`, run, disk.crashed(keeping, random));
    }
    await this.#judge(id, 'the failure', run, disk.image.clone());
    if (this.#options.reasserts || !disk.hasFailedFlush) await this.#reopened(id, run, disk, random);
  }

  /** Opened again by a process that can read what the failed flush left, closed, and then the power is cut. */
  async #reopened(id: string, run: FailingRun, disk: FailingDisk, random: SeededRandom): Promise<void> {
    try {
      const fill = (into: Uint8Array): void => random.fill(into);
      const opened = await this.#system.open(disk, { random: fill, readOnly: false });
      if (random.chance(2)) await opened.close();
      else opened.abandon();
    } catch {
      // Said already by `the failure`.
      return;
    }
    const keepings: readonly Keeping[] = ['nothing', 'some'];
    for (const keeping of keepings) {
      await this.#judge(id, `another opening and a crash (${keeping})`, run, disk.crashed(keeping, random));
    }
  }

  async #judge(id: string, after: string, run: FailingRun, image: SectorImage): Promise<void> {
    this.tally.disks++;
    const { content, problems } = await recover(this.#system, image, light);
    for (const problem of problems) this.#report(id, after, problem);
    const violation = content && run.oracle.allowed().firstViolation(content);
    if (violation) this.#report(id, after, describeViolation(violation));
  }

  #report(id: string, after: string, { guarantee, message }: Problem): void {
    this.#fail(id, `${guarantee} after ${after}: ${message}`);
  }

  #fail(id: string, message: string): void {
    this.failures.push({ id, message });
  }

  async #start(): Promise<SectorImage> {
    if (this.#base !== undefined) return this.#base;
    const image = new SectorImage();
    const random = new SeededRandom(hashText('create'));
    await this.#system.create(new SectorDevice(image), (into) => random.fill(into));
    this.#base = image;
    return image;
  }
}
