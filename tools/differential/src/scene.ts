/** A run under way: the image, the model beside it, QEMU, and what has been counted. */

import type { SeededRandom } from '@qcow2/seeded';
import { Qcow2Error } from '@qcow2/spec';
import { Disagreement } from './disagreement.ts';
import type { DiskModel } from './disk-model.ts';
import type { Kind } from './kinds.ts';
import type { Qemu } from './qemu.ts';
import type { Subject } from './subject.ts';

export interface Tally {
  operations: Record<string, number>;
  /** Documented refusals that came, by operation and code. */
  refusals: Record<string, number>;
  qemuTurns: number;
  qemuStarts: number;
}

export function emptyTally(): Tally {
  return { operations: {}, refusals: {}, qemuTurns: 0, qemuStarts: 0 };
}

export function addTally(sum: Tally, more: Tally): void {
  for (const counts of ['operations', 'refusals'] as const) {
    for (const [name, count] of Object.entries(more[counts])) {
      sum[counts][name] = (sum[counts][name] ?? 0) + count;
    }
  }
  sum.qemuTurns += more.qemuTurns;
  sum.qemuStarts += more.qemuStarts;
}

/** A refusal that is documented: of what it is known that it comes, or that it may. */
export interface Refusal {
  readonly code: string;
  readonly clause?: string;
  readonly comes: 'certainly' | 'perhaps';
}

export interface Operation {
  readonly name: string;
  readonly weight: number;
  /** Whether there is anything to do. Default: always. */
  may?(scene: Scene): boolean;
  run(scene: Scene, random: SeededRandom): Promise<void>;
}

export class Scene {
  readonly kind: Kind;
  readonly subject: Subject;
  readonly qemu: Qemu;
  readonly model: DiskModel;
  readonly tally = emptyTally();
  /** What the operation under way is, with its numbers. */
  told = '';
  /** Of the journal that the image had when it was open last. */
  lastProfile: 'v1' | 'draft-2013' | undefined;
  /** Names of snapshots and bitmaps are never used again. */
  #made = 0;

  constructor(kind: Kind, subject: Subject, qemu: Qemu, model: DiskModel) {
    this.kind = kind;
    this.subject = subject;
    this.qemu = qemu;
    this.model = model;
  }

  tell(text: string): void {
    this.told = text;
  }

  newName(letter: string): string {
    return `${letter}${this.#made++}`;
  }

  /** Of the journal that the open image has. */
  get profile(): 'v1' | 'draft-2013' | undefined {
    return this.subject.image.journalStatus()?.profile;
  }

  async open(random: SeededRandom): Promise<void> {
    await this.subject.open(random);
    this.lastProfile = this.profile;
  }

  async close(): Promise<void> {
    this.lastProfile = this.profile;
    await this.subject.close();
  }

  /** Do it, or be refused as it is documented. Returns whether it was done. */
  async attempt(action: () => unknown, refusals: readonly Refusal[]): Promise<boolean> {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      const { code, context } = error;
      const known = refusals.find(
        (one) => one.code === code && (one.clause === undefined || one.clause === context.clause),
      );
      if (known === undefined) throw error;
      const name = `${this.told.split(' ')[0]}: ${code}${context.clause === undefined ? '' : ` ${context.clause}`}`;
      this.tally.refusals[name] = (this.tally.refusals[name] ?? 0) + 1;
      return false;
    }
    const missed = refusals.find(({ comes }) => comes === 'certainly');
    if (missed === undefined) return true;
    throw new Disagreement(`what is to be refused with ${missed.code} was done`);
  }
}

/** What a small ring refuses: changes that one of its records can not hold. */
export function ringRefusals(scene: Scene): Refusal[] {
  return scene.profile === undefined
    ? []
    : [{ code: 'INVALID_ARGUMENT', clause: 'JRN-FAIL-003', comes: 'perhaps' }];
}
