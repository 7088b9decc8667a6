/**
 * Damage to what was durable (G6): the log of an image that a crash left is damaged, one sector at a time, and the image
 * is opened. It is refused, with the name of the place and of the record; or, where nothing durable knows of the
 * damaged record, it recovers to what a crash before that record's flush could have left (JRN-RECOV-016). It never
 * loses in silence what something durable knows to have been durable.
 *
 * States: at each crash point of a workload, what is durable for certain. So everything in the log of such a state was
 * made durable by a flush. A record that nobody claims is damaged only at the first point at which it is
 * durable: without it, the state is one that a crash at the point before may leave, and is judged by what was allowed there.
 */

import { hashText, SeededRandom } from '@qcow2/seeded';
import { InvariantError } from '@qcow2/spec';
import { type CrashPoint, crashPoints } from './crash-point.ts';
import type { GuestViolation } from './guest-oracle.ts';
import { record } from './recording.ts';
import { recover, shallowDepth } from './recovery.ts';
import { type Sector, sectorBytes, sectorOf, zeroSector } from './sector.ts';
import { SectorDevice } from './sector-device.ts';
import { SectorImage } from './sector-image.ts';
import type { LiveLog, LoggedRecord, SystemUnderTest } from './system-under-test.ts';
import { randomWorkload, type Workload } from './workload.ts';

export interface DamageTally {
  workloads: number;
  /** Damaged images that were opened. */
  images: number;
  refused: number;
  /** Opened, as if the last record had been lost in a crash. */
  recovered: number;
}

export interface DamageFailure {
  readonly id: string;
  readonly message: string;
}

export type DamageKind = 'flip' | 'zero' | 'swap';
const kinds: readonly DamageKind[] = ['flip', 'zero', 'swap'];

/** Of each durable state, so many sectors are damaged in each way. */
const sectorsPerState = 2;

interface Scene {
  readonly point: CrashPoint;
  readonly before: CrashPoint | undefined;
  readonly log: LiveLog;
  /** Records that the state before did not have. */
  readonly fresh: ReadonlySet<number>;
}

/** So many random workloads on each system, their logs damaged. */
export async function damageLogs(
  systems: readonly SystemUnderTest[],
  seed: number,
  workloadsEach: number,
): Promise<{ tally: DamageTally; failures: DamageFailure[] }> {
  const tally: DamageTally = { workloads: 0, images: 0, refused: 0, recovered: 0 };
  const failures: DamageFailure[] = [];
  for (const system of systems) {
    const explorer = new DamageExplorer(system);
    for (let number = 0; number < workloadsEach; number++) {
      await explorer.explore(randomWorkload(system, seed, number));
    }
    for (const name of Object.keys(tally) as (keyof DamageTally)[]) tally[name] += explorer.tally[name];
    failures.push(...explorer.failures);
  }
  return { tally, failures };
}

export class DamageExplorer {
  readonly tally: DamageTally = { workloads: 0, images: 0, refused: 0, recovered: 0 };
  readonly failures: DamageFailure[] = [];
  readonly #system: SystemUnderTest;
  readonly #mutant: string | undefined;

  /** @param mutant what is planted; part of the ids of failures */
  constructor(system: SystemUnderTest, mutant?: string) {
    this.#system = system;
    this.#mutant = mutant;
  }

  async explore(workload: Workload): Promise<void> {
    const system = this.#system;
    if (system.liveLog === undefined) throw new InvariantError('a system without a log was to be damaged');
    const base = new SectorImage();
    const create = new SeededRandom(hashText('create'));
    await system.create(new SectorDevice(base), (into) => create.fill(into));
    const recording = await record(system, base, workload, {
      baseContent: system.initialContent(),
      baseSnapshots: system.hasSnapshots === true ? [] : undefined,
      baseBacking: system.firstBacking,
      baseBitmaps: system.bitmaps?.initial,
    });
    const random = new SeededRandom(hashText(`damage ${system.name}/${workload.name}`));
    this.tally.workloads++;
    let before: CrashPoint | undefined;
    let known = new Set<number>();
    let last = '';
    for (const point of crashPoints(recording)) {
      const log = await system.liveLog(new SectorDevice(point.durable.clone()));
      const fresh = new Set(log?.records.map(({ sequence }) => sequence).filter((one) => !known.has(one)));
      const key = point.durable.key();
      if (log !== undefined && key !== last)
        await this.#damageAll({ point, before, log, fresh }, workload, random);
      known = new Set(log?.records.map(({ sequence }) => sequence));
      before = point;
      last = key;
    }
  }

  async #damageAll(scene: Scene, workload: Workload, random: SeededRandom): Promise<void> {
    for (const kind of kinds) {
      const targets = [...scene.log.slotOffsets, ...this.#drawSectors(scene, random)];
      for (const [number, at] of targets.entries()) {
        const image = scene.point.durable.clone();
        const hit = damage(image, kind, at, scene.log, random);
        if (hit.length === 0 || !isJudged(scene, hit)) continue;
        this.tally.images++;
        const message = await this.#judge(scene, image, hit);
        if (message === undefined) continue;
        const mutant = this.#mutant === undefined ? '' : `!${this.#mutant}`;
        const id = `${this.#system.name}${mutant}/${workload.name}#${kind}.${scene.point.index}.${number}`;
        this.failures.push({ id, message: `${kind} at ${hit.join(' and ')}: ${message}` });
      }
    }
  }

  #drawSectors({ log, fresh }: Scene, random: SeededRandom): number[] {
    // What nobody claims, and was durable before, is left alone: see the head of this file.
    const records = log.records.filter((one) => fresh.has(one.sequence) || isClaimed(log, one.sequence, []));
    if (records.length === 0) return [];
    return Array.from({ length: sectorsPerState }, () => {
      const one = records[random.below(records.length)]!;
      const inRecord = sectorBytes * random.below(one.lengthBytes / sectorBytes);
      return sectorInRecord(log, one, inRecord);
    });
  }

  /** What is wrong with how the damaged image was taken; undefined where nothing is. */
  async #judge(scene: Scene, image: SectorImage, hit: readonly number[]): Promise<string | undefined> {
    const { log } = scene;
    const { content, problems } = await recover(this.#system, image, { ...shallowDepth, readOnly: false });
    const records = recordsAt(log, hit);
    const slotHit = log.slotOffsets.some((at) => hit.includes(at));
    const first = records[0];
    if (content === undefined) {
      this.tally.refused++;
      const message = problems[0]?.message ?? '';
      if (!message.startsWith('open: JOURNAL_DAMAGED ')) return `refused by something else: ${message}`;
      return slotHit || first === undefined ? undefined : namesRecord(message, log, first);
    }
    this.tally.recovered++;
    if (slotHit) return 'a damaged slot was not refused';
    if (first === undefined) return undefined;
    const damaged = records.map(({ sequence }) => sequence);
    if (isClaimed(log, first.sequence, damaged))
      return `record ${first.sequence} was known to be durable, and is gone without a word`;
    // As judged by a crash before its flush was done, and by one after it: each record is there, or is not.
    const allowed = [scene.point.allowed, scene.before?.allowed].filter((one) => one !== undefined);
    const violations = allowed.map((one) => one.firstViolation(content));
    if (problems.length > 0) return problems[0]!.message;
    return violations.includes(undefined) ? undefined : describe(violations[0]!);
  }
}

function recordsAt(log: LiveLog, hit: readonly number[]): LoggedRecord[] {
  return log.records.filter((one) => hit.some((at) => contains(log, one, at)));
}

/** Nobody can say what is right where a record is lost of which nobody knows, and that was durable before this state. */
function isJudged({ log, fresh }: Scene, hit: readonly number[]): boolean {
  const records = recordsAt(log, hit);
  const damaged = records.map(({ sequence }) => sequence);
  const slotHit = log.slotOffsets.some((at) => hit.includes(at));
  return slotHit || damaged.slice(0, 1).every((one) => fresh.has(one) || isClaimed(log, one, damaged));
}

function describe(violation: GuestViolation): string {
  switch (violation.kind) {
    case 'size':
      return `the disk has ${violation.foundBytes} bytes`;
    case 'snapshots':
      return `the snapshots are [${violation.found}]`;
    case 'backing':
      return `the image stands on ${violation.found}`;
    case 'bitmaps':
      return violation.message;
    case 'dangers':
      return violation.found.join('; ');
    case 'content':
      return `guest sector ${violation.guestSector} holds what it never may`;
  }
}

function namesRecord(
  message: string,
  log: LiveLog,
  { sequence, position }: LoggedRecord,
): string | undefined {
  const place = `host offset 0x${(log.ringOffset + position).toString(16)}`;
  const named = message.includes(`journal record ${sequence} `) && message.includes(place);
  return named ? undefined : `record ${sequence} at ${place} is not named: ${message}`;
}

/** Something durable and whole knows that the record was durable: the ruling slot, or a later record. */
function isClaimed(log: LiveLog, sequence: number, damaged: readonly number[]): boolean {
  if (log.durableSequence >= sequence) return true;
  return log.records.some((one) => one.durableThrough >= sequence && !damaged.includes(one.sequence));
}

function sectorInRecord(log: LiveLog, { position }: LoggedRecord, inRecord: number): number {
  return log.ringOffset + ((position + inRecord) % log.ringBytes);
}

function contains(log: LiveLog, { position, lengthBytes }: LoggedRecord, at: number): boolean {
  const inRing = at - log.ringOffset;
  return inRing >= 0 && (inRing - position + log.ringBytes) % log.ringBytes < lengthBytes;
}

/** Damages one sector, or two that change places. The host offsets of those that hold something else now. */
function damage(
  image: SectorImage,
  kind: DamageKind,
  at: number,
  log: LiveLog,
  random: SeededRandom,
): readonly number[] {
  const sector = image.sector(at / sectorBytes);
  if (kind === 'flip') {
    const bytes = sector.bytes.slice();
    const bit = random.below(sectorBytes * 8);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    return replace(image, [[at, sectorOf(bytes)]]);
  }
  if (kind === 'zero') return replace(image, [[at, zeroSector]]);
  const other = log.areaOffset + sectorBytes * random.below(log.areaBytes / sectorBytes);
  return replace(image, [
    [at, image.sector(other / sectorBytes)],
    [other, sector],
  ]);
}

function replace(image: SectorImage, sectors: readonly (readonly [at: number, sector: Sector])[]): number[] {
  const changed = sectors.filter(([at, sector]) => !image.sector(at / sectorBytes).sameContent(sector));
  for (const [at, sector] of changed) image.setSector(at / sectorBytes, sector);
  return changed.map(([at]) => at);
}
