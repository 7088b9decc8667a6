/**
 * Takes one system through workloads and crashes: records each workload, walks its crash points, makes the
 * states of each, recovers them, and holds what comes out against the oracle.
 *
 * Three prunings, none of which leaves out a state:
 *
 * - Crash points are the last moments before something becomes durable or acknowledged (`crash-point.ts`).
 * - An image is recovered once. Recovery is a function of the image (`recovery.ts`), so when another choice,
 *   another crash point or another workload leads to the same bytes, only the oracle's question is asked again,
 *   of the content that recovery is known to give. Images are known by a 64-bit hash.
 * - Workloads share beginnings. A system is deterministic, so what happens before the last operation of a
 *   sequence is what happened in the sequence without it: only crash points that come after the last operation's
 *   start are looked at, as long as the shorter sequences are explored too.
 *
 * A recovery is crashed in its turn (G4): at its own crash points, and what the second recovery gives must be
 * what the first gave. And now and then there is a second life: the guest goes on after a recovery, and the machine crashes
 * once more. What the recovery gave is durable then, and the rest is as in a first life.
 */

import { hashText, SeededRandom } from '@qcow2/seeded';
import {
  attachedBytes,
  backingBytes,
  bitmapListBytes,
  decodeBacking,
  decodeBitmapList,
  decodeSnapshotList,
  snapshotListBytes,
} from './attached-lists.ts';
import { randomChoice, structuredChoices } from './choices.ts';
import { type CrashPoint, crashPoints } from './crash-point.ts';
import { type CrashChoice, CrashSpace } from './crash-space.ts';
import { type AllowedContent, addedDangers, type GuestViolation } from './guest-oracle.ts';
import { killTimeline, liveImage } from './kill-point.ts';
import type { DeviceMutation } from './mutation.ts';
import type { QemuCheck } from './qemu-check.ts';
import { type Recording, record } from './recording.ts';
import {
  describeDifference,
  describeError,
  fullDepth,
  type Guarantee,
  type Problem,
  type Recovery,
  recover,
  shallowDepth,
  showBytes,
} from './recovery.ts';
import { SectorDevice } from './sector-device.ts';
import { SectorImage } from './sector-image.ts';
import { type CrashStep, formatStateId, type LifeSteps } from './state-id.ts';
import type { BitmapState, SystemUnderTest } from './system-under-test.ts';
import { describeOperation, laterWorkload, type Workload } from './workload.ts';

export interface Failure {
  readonly id: string;
  readonly guarantee: Guarantee;
  readonly message: string;
  readonly operations: readonly string[];
}

/** What was looked at. Plain numbers, so that those of several explorers can be added up. */
export interface Tally {
  workloads: number;
  crashPoints: number;
  /** Crash states judged: `exhaustive` + `sampled`. */
  states: number;
  /** States of points whose whole space was gone through. */
  exhaustive: number;
  /** States picked from spaces that were too large, and all states of second crashes that were picked. */
  sampled: number;
  /** Of the states, those of a crash in a recovery. */
  secondCrashes: number;
  /** Of the states, those of a crash in the recovery of a process that was killed. */
  afterKills: number;
  /** Recoveries after which the guest went on. */
  secondLives: number;
  /** Crash points whose space was too large to go through. */
  pointsSampled: number;
  /** Different images that were recovered. */
  distinct: number;
  qemuChecks: number;
  leakedImages: number;
  failures: number;
}

export function emptyTally(): Tally {
  return {
    workloads: 0,
    crashPoints: 0,
    states: 0,
    exhaustive: 0,
    sampled: 0,
    secondCrashes: 0,
    afterKills: 0,
    secondLives: 0,
    pointsSampled: 0,
    distinct: 0,
    qemuChecks: 0,
    leakedImages: 0,
    failures: 0,
  };
}

export interface ExplorerOptions {
  readonly seed: number;
  /** A space with more states than this is sampled. */
  readonly bound: number;
  /** States drawn at random from a space that is too large, besides the structured families. */
  readonly samplesPerPoint: number;
  /** Of the images recovered in other workloads, one in so many is crashed again; 0 for none. */
  readonly secondCrashOneIn: number;
  /** At one crash point in so many of other workloads, the process is killed instead; 0 for none. */
  readonly killOneIn: number;
  /** After the recovery of one image in so many the guest goes on, and is crashed again; 0 for none. */
  readonly secondLifeOneIn: number;
  readonly mutation?: DeviceMutation | undefined;
  readonly qemu?: QemuCheck | undefined;
  readonly onFailure?: (failure: Failure) => void;
  /** Asked often: true stops the exploration, leaving the tally as it is. */
  readonly isOver?: () => boolean;
}

export interface WorkloadPlan {
  /** Crash points before this operation belong to other workloads. */
  readonly fromOperation: number;
  /** `all`: spaces within the bound whole. A number: so many random states of each point, whatever its size. */
  readonly states: 'all' | number;
  /** Crash every recovery of this workload at all its points, in all states of each that is within the bound. */
  readonly secondCrashes: 'all' | 'some';
}

/** Drawn states of each crash point of a second life. */
const statesPerLaterPoint = 2;

/** What recovery gives, and what was dangerous before it. */
type Outcome = Pick<Recovery, 'dangers'> & { readonly content: Uint8Array };

/** An image, and what the guest sees on it once it is recovered. */
interface LifeStart {
  readonly image: SectorImage;
  readonly content: Uint8Array;
}

interface Scene {
  readonly workload: Workload;
  /** Where this is a second life: the first one, and the crash that ended it. */
  readonly before?: LifeSteps;
  readonly plan: WorkloadPlan;
  readonly random: SeededRandom;
}

export class Explorer {
  readonly tally = emptyTally();
  readonly failures: Failure[] = [];
  readonly #system: SystemUnderTest;
  readonly #options: ExplorerOptions;
  #base: SectorImage | undefined;
  /** By image: number of the content that recovery gives, -1 where it fails. */
  readonly #recovered = new Map<string, number>();
  readonly #contents: Outcome[] = [];
  readonly #contentNumbers = new Map<string, number>();

  constructor(system: SystemUnderTest, options: ExplorerOptions) {
    this.#system = system;
    this.#options = options;
  }

  /** Keys of all images recovered so far, to count the distinct ones of several explorers. */
  imageKeys(): IterableIterator<string> {
    return this.#recovered.keys();
  }

  async explore(workload: Workload, plan: WorkloadPlan): Promise<void> {
    const random = new SeededRandom(hashText(`${this.#system.name}/${workload.name}`), this.#options.seed);
    const scene = { workload, plan, random };
    const recording = await this.#record(scene);
    if (recording === undefined) return;
    this.tally.workloads++;
    const from = recording.operationTimes[plan.fromOperation] ?? 0;
    for (const point of crashPoints(recording)) {
      if (point.deviceTime < from) continue;
      if (this.#isOver()) return;
      await this.#explorePoint(scene, point);
      await this.#killAt(scene, point);
    }
  }

  /** Make one state again, judge it in full, and tell its story. `later`: the second life that the state is of. */
  async replay(
    workload: Workload,
    steps: readonly CrashStep[],
    later?: { readonly workload: Workload; readonly steps: readonly CrashStep[] },
  ): Promise<string[]> {
    const story: string[] = [];
    const end = await this.#replayLife(story, { workload }, steps, undefined);
    if (later === undefined || end?.recovery?.content === undefined) return story;
    story.push('the guest goes on after this recovery');
    const before = { workload: workload.name, steps };
    const start = { image: end.image, content: end.recovery.content };
    await this.#replayLife(story, { workload: later.workload, before }, later.steps, start);
    return story;
  }

  /** @returns the last state that was recovered, and what came of it */
  async #replayLife(
    story: string[],
    scene: Pick<Scene, 'workload' | 'before'>,
    steps: readonly CrashStep[],
    start: LifeStart | undefined,
  ): Promise<{ image: SectorImage; recovery: Recovery | undefined } | undefined> {
    const recording = await this.#record(scene, start);
    if (recording === undefined) return undefined;
    const { operations } = scene.workload;
    story.push(...operations.map((operation, index) => `op${index} ${describeOperation(operation)}`));
    let timeline: Parameters<typeof crashPoints>[0] = recording;
    let end: { image: SectorImage; recovery: Recovery | undefined } | undefined;
    let expected: Recovery | undefined;
    let allowed: AllowedContent | undefined;
    for (const [index, { point: wanted, state }] of steps.entries()) {
      const point = [...crashPoints(timeline)][wanted];
      if (point === undefined) {
        story.push(`there is no crash point ${wanted}`);
        return undefined;
      }
      if (index === 0) allowed = point.allowed;
      if (state === 'killed') {
        story.push(`the process is killed at crash point ${wanted} of device time ${point.deviceTime}`);
        const recovery = await recover(this.#system, liveImage(point), shallowDepth);
        timeline = killTimeline(point, this.#mutated(recovery));
        continue;
      }
      const space = new CrashSpace(point);
      const choice = space.decode(state);
      const image = space.image(choice);
      const time = `device time ${point.deviceTime}`;
      story.push(`crash point ${wanted} of ${time}, state ${state} of ${space.total}`);
      story.push(...space.describe(choice).map((line) => `  ${line}`));
      const recovery = await recover(this.#system, image, fullDepth);
      const id = this.#id(scene, steps.slice(0, index + 1));
      this.#report(scene.workload, id, recovery.problems);
      const violation = recovery.content && allowed?.firstViolation(recovery.content, recovery.dangers);
      if (violation) this.#report(scene.workload, id, [describeViolation(violation)]);
      if (expected !== undefined) this.#report(scene.workload, id, secondCrashProblems(expected, recovery));
      expected = recovery;
      end = { image, recovery };
      timeline = { base: image, log: this.#mutated(recovery), allowed: [] };
    }
    return end;
  }

  async #record(
    scene: Pick<Scene, 'workload' | 'before'>,
    start?: LifeStart,
  ): Promise<Recording | undefined> {
    try {
      const { image, content } = start ?? {
        image: await this.#baseImage(),
        content: undefined,
      };
      return await record(this.#system, image, scene.workload, {
        baseContent: content === undefined ? this.#system.initialContent() : this.#diskOf(content),
        baseSnapshots: this.#snapshotsOf(content),
        baseBacking: this.#backingOf(content),
        baseBitmaps: this.#bitmapsOf(content),
        mutation: this.#options.mutation,
        isLater: start !== undefined,
      });
    } catch (error) {
      const problem: Problem = { guarantee: 'run', message: describeError(error) };
      this.#report(scene.workload, this.#id(scene, [{ point: 0, state: 0n }]), [problem]);
      return undefined;
    }
  }

  /** What a recovery gives without what is attached to the disk. */
  #diskOf(content: Uint8Array): Uint8Array {
    return content.subarray(0, content.length - attachedBytes(this.#system));
  }

  #snapshotsOf(content: Uint8Array | undefined): readonly string[] | undefined {
    if (this.#system.hasSnapshots !== true) return undefined;
    if (content === undefined) return [];
    const at = content.length - attachedBytes(this.#system);
    return decodeSnapshotList(content.subarray(at, at + snapshotListBytes));
  }

  #backingOf(content: Uint8Array | undefined): string | undefined {
    const { firstBacking, hasSnapshots } = this.#system;
    if (firstBacking === undefined || content === undefined) return firstBacking;
    const at = content.length - attachedBytes(this.#system) + (hasSnapshots === true ? snapshotListBytes : 0);
    return decodeBacking(content.subarray(at, at + backingBytes));
  }

  #bitmapsOf(content: Uint8Array | undefined): readonly BitmapState[] | undefined {
    const { bitmaps } = this.#system;
    if (bitmaps === undefined || content === undefined) return bitmaps?.initial;
    return decodeBitmapList(content.subarray(-bitmapListBytes));
  }

  async #baseImage(): Promise<SectorImage> {
    if (this.#base !== undefined) return this.#base;
    const image = new SectorImage();
    const random = new SeededRandom(hashText('create'));
    await this.#system.create(new SectorDevice(image), (into) => random.fill(into));
    this.#base = image;
    return image;
  }

  async #explorePoint(scene: Scene, point: CrashPoint): Promise<void> {
    this.tally.crashPoints++;
    const space = new CrashSpace(point);
    const verdicts = new Set<number>();
    const { bound, samplesPerPoint } = this.#options;
    const judge = (choice: CrashChoice) => {
      const steps = () => [{ point: point.index, state: space.encode(choice) }];
      return this.#judgeState(scene, point.allowed, space.image(choice), steps, verdicts);
    };
    if (scene.plan.states !== 'all') {
      for (let drawn = 0; drawn < scene.plan.states; drawn++) {
        this.tally.sampled++;
        await judge(randomChoice(space, scene.random));
      }
      return;
    }
    if (space.complete && space.total <= BigInt(bound)) {
      for (const choice of space.choices()) {
        if (this.#isOver()) return;
        this.tally.exhaustive++;
        await judge(choice);
      }
      return;
    }
    this.tally.pointsSampled++;
    let structured = 0;
    for (const choice of structuredChoices(space)) {
      if (this.#isOver() || structured++ === bound) break;
      this.tally.sampled++;
      await judge(choice);
    }
    for (let drawn = 0; drawn < samplesPerPoint && !this.#isOver(); drawn++) {
      this.tally.sampled++;
      await judge(randomChoice(space, scene.random));
    }
  }

  /**
   * The process dies at a crash point, the next one recovers, and the machine crashes in that. Nothing was acknowledged
   * meanwhile, so what was allowed at the point is what is allowed after it.
   */
  async #killAt(scene: Scene, point: CrashPoint): Promise<void> {
    const { bound, killOneIn } = this.#options;
    const all = scene.plan.secondCrashes === 'all';
    if (killOneIn === 0 || (!all && !scene.random.chance(killOneIn))) return;
    if (point.pending.length === 0) return;
    const live = liveImage(point);
    const recovery = await recover(this.#system, live, shallowDepth);
    const killed: CrashStep = { point: point.index, state: 'killed' };
    if (recovery.content === undefined) {
      return this.#report(scene.workload, this.#id(scene, [killed]), recovery.problems);
    }
    const verdicts = new Set<number>();
    for (const next of crashPoints(killTimeline(point, this.#mutated(recovery)))) {
      if (this.#isOver()) return;
      const space = new CrashSpace(next);
      const whole = all && space.complete && space.total <= BigInt(bound);
      const choices = whole
        ? space.choices()
        : [randomChoice(space, scene.random), randomChoice(space, scene.random)];
      for (const choice of choices) {
        if (whole) this.tally.exhaustive++;
        else this.tally.sampled++;
        this.tally.afterKills++;
        const steps = () => [killed, { point: next.index, state: space.encode(choice) }];
        await this.#judgeState(scene, point.allowed, space.image(choice), steps, verdicts);
      }
    }
  }

  /** @param verdicts numbers of the contents that were found to be as allowed at this point */
  async #judgeState(
    scene: Scene,
    allowed: AllowedContent | undefined,
    image: SectorImage,
    steps: () => readonly CrashStep[],
    verdicts: Set<number>,
  ): Promise<void> {
    this.tally.states++;
    const content = await this.#contentAfterRecovery(scene, image, steps);
    if (content === -1 || verdicts.has(content)) return;
    verdicts.add(content);
    const outcome = this.#contents[content]!;
    const violation = allowed?.firstViolation(outcome.content, outcome.dangers);
    if (violation !== undefined) {
      this.#report(scene.workload, this.#id(scene, steps()), [describeViolation(violation)]);
    }
  }

  /** The number of the content that recovery gives, -1 where it fails. Recovers each image once. */
  async #contentAfterRecovery(
    scene: Scene,
    image: SectorImage,
    steps: () => readonly CrashStep[],
    mayCrashAgain = true,
  ): Promise<number> {
    const { low, high } = image.hash();
    const key = high.toString(36) + low.toString(36).padStart(7, '0');
    const known = this.#recovered.get(key);
    if (known !== undefined) return known;
    this.tally.distinct++;
    const recovery = await recover(this.#system, image, {
      reopen: low % 4 === 0,
      twice: low % 16 === 1,
      readOnly: low % 8 === 2,
    });
    const number = this.#numberOf(recovery);
    this.#recovered.set(key, number);
    if (recovery.leaks > 0) this.tally.leakedImages++;
    if (recovery.problems.length > 0) {
      this.#report(scene.workload, this.#id(scene, steps()), recovery.problems);
    }
    await this.#askQemu(scene, recovery, high, steps);
    if (number !== -1 && mayCrashAgain)
      await this.#crashRecovery(scene, image, recovery, number, high, steps);
    if (recovery.content !== undefined)
      await this.#liveOn(scene, { image, content: recovery.content }, steps);
    return number;
  }

  /** The guest goes on after a recovery, with a few operations that follow from the image; at each of their crash points it crashes. */
  async #liveOn(scene: Scene, start: LifeStart, steps: () => readonly CrashStep[]): Promise<void> {
    const { secondLifeOneIn } = this.#options;
    const { low, high } = start.image.hash();
    if (scene.before !== undefined || secondLifeOneIn === 0 || high % secondLifeOneIn !== 0) return;
    const random = new SeededRandom(hashText('second life'), low, high);
    const later: Scene = {
      workload: laterWorkload(this.#system, random),
      before: { workload: scene.workload.name, steps: steps() },
      plan: { fromOperation: 0, states: statesPerLaterPoint, secondCrashes: 'some' },
      random,
    };
    const recording = await this.#record(later, start);
    if (recording === undefined) return;
    this.tally.secondLives++;
    for (const point of crashPoints(recording)) {
      if (this.#isOver()) return;
      await this.#explorePoint(later, point);
    }
  }

  async #crashRecovery(
    scene: Scene,
    image: SectorImage,
    recovery: Recovery,
    expected: number,
    lot: number,
    steps: () => readonly CrashStep[],
  ): Promise<void> {
    const { secondCrashOneIn, bound } = this.#options;
    const all = scene.plan.secondCrashes === 'all';
    if (!all && (secondCrashOneIn === 0 || lot % secondCrashOneIn !== 0)) return;
    for (const point of crashPoints({ base: image, log: this.#mutated(recovery), allowed: [] })) {
      if (this.#isOver()) return;
      const space = new CrashSpace(point);
      const whole = all && space.complete && space.total <= BigInt(bound);
      const choices = whole ? space.choices() : [randomChoice(space, scene.random)];
      for (const choice of choices) {
        this.tally.states++;
        this.tally.secondCrashes++;
        if (whole) this.tally.exhaustive++;
        else this.tally.sampled++;
        const path = () => [...steps(), { point: point.index, state: space.encode(choice) }];
        // A third crash follows one second crash in eight; deeper ones would find nothing that these do not.
        const third = !all && steps().length === 1 && scene.random.chance(8);
        const content = await this.#contentAfterRecovery(scene, space.image(choice), path, third);
        if (content === expected || content === -1) continue;
        const problems = secondCrashProblems(this.#contents[expected]!, this.#contents[content]!);
        this.#report(scene.workload, this.#id(scene, path()), problems);
      }
    }
  }

  async #askQemu(
    scene: Scene,
    recovery: Recovery,
    lot: number,
    steps: () => readonly CrashStep[],
  ): Promise<void> {
    const { qemu } = this.#options;
    if (qemu === undefined || recovery.closed === undefined || !qemu.wants(lot)) return;
    this.tally.qemuChecks++;
    const { leaksAreFailures, leaksForStrangers } = this.#system;
    const noLeaks = leaksAreFailures && leaksForStrangers !== true;
    const complaint = await qemu.check(recovery.closed.toBytes(), noLeaks);
    if (complaint === undefined) return;
    this.#report(scene.workload, this.#id(scene, steps()), [{ guarantee: 'G3', message: complaint }]);
  }

  #numberOf({ content, dangers }: Recovery): number {
    if (content === undefined) return -1;
    const key = [SectorImage.fromBytes(content).key(), ...dangers].join('\n');
    const known = this.#contentNumbers.get(key);
    if (known !== undefined) return known;
    this.#contents.push({ content, dangers });
    this.#contentNumbers.set(key, this.#contents.length - 1);
    return this.#contents.length - 1;
  }

  #mutated(recovery: Recovery): Recovery['log'] {
    return this.#options.mutation?.apply(recovery.log) ?? recovery.log;
  }

  #isOver(): boolean {
    return this.#options.isOver?.() ?? false;
  }

  #id({ workload, before }: Pick<Scene, 'workload' | 'before'>, steps: readonly CrashStep[]): string {
    const here = { workload: workload.name, steps };
    const lives = before === undefined ? here : { ...before, later: here };
    return formatStateId({ system: this.#system.name, mutation: this.#options.mutation?.name, ...lives });
  }

  #report(workload: Workload, id: string, problems: readonly Problem[]): void {
    const operations = workload.operations.map(describeOperation);
    for (const { guarantee, message } of problems) {
      this.tally.failures++;
      const failure = { id, guarantee, message, operations };
      // The first ones tell the story; a broken system has them by the thousand.
      if (this.failures.length < 100) this.failures.push(failure);
      this.#options.onFailure?.(failure);
    }
  }
}

export function describeViolation(violation: GuestViolation): Problem {
  if (violation.kind === 'size') {
    const sizes = violation.allowedBytes.join(' or ');
    return { guarantee: 'G1/G2', message: `the disk has ${violation.foundBytes} bytes, allowed: ${sizes}` };
  }
  if (violation.kind === 'dangers') {
    const message = ['a crash has made the image worse', ...violation.found].join('\n  ');
    return { guarantee: 'repair', message };
  }
  if (violation.kind === 'backing') {
    const { found, allowed } = violation;
    return { guarantee: 'G1/G2', message: `the image stands on ${found}, allowed: ${allowed.join(' or ')}` };
  }
  if (violation.kind === 'bitmaps') return { guarantee: 'bitmaps', message: violation.message };
  if (violation.kind === 'snapshots') {
    const { found, allowed } = violation;
    const lists = allowed
      .map((list) => `[${list}]`)
      .join(' or ')
      .replaceAll('\n', ', ');
    return { guarantee: 'G1/G2', message: `the snapshots are [${found}], allowed: ${lists}` };
  }
  const { guestSector, found, allowed } = violation;
  const expected = allowed.map(({ bytes }) => showBytes(bytes)).join(' or ');
  return {
    guarantee: 'G1/G2',
    message: `guest sector ${guestSector} holds ${showBytes(found.bytes)}, allowed: ${expected}`,
  };
}

/** A crash in recovery may change nothing of what recovery gives, and leaves nothing that is more dangerous. */
function secondCrashProblems(
  first: Pick<Recovery, 'content' | 'dangers'>,
  second: Pick<Recovery, 'content' | 'dangers'>,
): Problem[] {
  const difference = describeDifference(first.content, second.content);
  const added = addedDangers(first.dangers, second.dangers);
  const problems: Problem[] = [];
  if (difference !== undefined) {
    const message = `a crash in recovery changed what recovery gives: ${difference}`;
    problems.push({ guarantee: 'G4', message });
  }
  if (added.length > 0) problems.push(describeViolation({ kind: 'dangers', found: added }));
  return problems;
}
