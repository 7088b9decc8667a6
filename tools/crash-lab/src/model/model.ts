/**
 * The model's transitions: everything that a writer, a device and a crash may do next. Each mirrors a step of the
 * engine by name; their order is freer than the engine's, which does them under one mutex, so what holds here for every
 * order holds for the engine's.
 *
 *   append        RecordWriter.append: one record at the head, within LogSpace.roomBytes
 *   beginRound    WriteBack.begin: what is durable is drained; the cut is the last durable record
 *   drain         WriteBack.step: one cell is written in place; with the last, the round waits for a flush
 *   writeSlot     JournalEngine.#writeSlot: the tail goes into the other slot
 *   flush, flushed, flushFails   JournalEngine.#flush, as it begins, completes, or fails (and the process is gone)
 *   reassert      reassertLog: the slot and the unclaimed records again
 *   kill          the process dies; the next one reads everything that was written, durable or not
 *   crash         power is cut: of every place any content that it may have
 *
 * A crash is tried only while a flush is under way. That is enough: a state without one has a successor in which it has just
 * begun, with the same contents everywhere and the same promises.
 */
import type { Mutant } from './mutant.ts';
import { complete, cover, isPending, lose, outcomes, type Place, visible, write } from './place.ts';
import { type Disk, judge, type ModelLog, maxUnclaimedBlocks, opened, recoverLog } from './recovery.ts';
import { type AtFlush, next, noFlush, type Phase, type State, type Tail, underWay } from './state.ts';
import { blockContent, Vocabulary } from './vocabulary.ts';

export interface Bounds {
  readonly ringBlocks: number;
  readonly cells: number;
  /** Blocks of a record: 1 up to this. */
  readonly recordBlocks: number;
  readonly commits: number;
  readonly crashes: number;
  /** Killed processes and failed flushes together. */
  readonly kills: number;
}

export interface Step {
  readonly name: string;
  /** Undefined where something is broken. */
  readonly state: State | undefined;
  readonly broken?: string;
}

export class Model {
  readonly bounds: Bounds;
  readonly words = new Vocabulary();
  readonly #mutant: Mutant | undefined;

  constructor(bounds: Bounds, mutant?: Mutant) {
    this.bounds = bounds;
    this.#mutant = mutant;
  }

  /** A journal that `formatArea` has just made, opened. */
  initial(): State {
    const { ringBlocks, cells } = this.bounds;
    const slots = [0, 1].map((generation) =>
      this.words.slot({
        generation,
        tailPosition: 0,
        tailSequence: 1,
        tailSalt: 0,
        tailChain: 0,
        durableSequence: 0,
      }),
    );
    const list = <T>(length: number, value: T): T[] => Array.from({ length }, () => value);
    return {
      ring: list(ringBlocks, [0]),
      slots: slots.map((slot) => [slot]),
      cells: list(cells, [0]),
      phase: 'running',
      salt: 1,
      lifePending: true,
      live: [],
      tail: { sequence: 0, chain: 0, salt: 0, endLog: 0 },
      headLog: 0,
      freedLog: 0,
      freedBySlot: 0,
      claimedLog: 0,
      claimedBySlot: 0,
      slot: slots[1]!,
      slotDue: false,
      slotAtFlush: noFlush,
      durableSequence: 0,
      claimedSequence: 0,
      active: list(cells, 0),
      round: undefined,
      flushing: undefined,
      lineage: [],
      acknowledged: 0,
      commits: 0,
      crashes: 0,
      kills: 0,
    };
  }

  /** Everything that may happen next. */
  *steps(state: State): Generator<Step> {
    if (state.phase === 'reassert') yield { name: 'reassert', state: this.reassert(state) };
    if (state.phase === 'running') yield* this.#writerSteps(state);
    yield* this.#flushSteps(state);
    if (state.kills < this.bounds.kills && this.hasPending(state))
      yield { name: 'kill', ...this.kill(state) };
    if (state.flushing !== undefined && state.crashes < this.bounds.crashes) yield* this.#crash(state);
  }

  /** What no state may show, whatever comes of it. */
  broken(state: State): string | undefined {
    const { freedLog, tail, headLog } = state;
    if (tail.endLog > headLog) return 'the tail is ahead of the head';
    if (freedLog > tail.endLog) return 'space is free that the tail has not passed';
    if (headLog - freedLog > this.bounds.ringBlocks - 1) return 'the head has reached the tail [JRN-WB-005]';
    return undefined;
  }

  *#writerSteps(state: State): Generator<Step> {
    for (let blocks = 1; blocks <= this.bounds.recordBlocks; blocks++) {
      const appended = this.append(state, blocks);
      if (appended !== undefined) yield { name: `append ${blocks}`, state: appended };
    }
    const begun = this.beginRound(state);
    if (begun !== undefined) yield { name: 'beginRound', state: begun };
    const drained = this.drain(state);
    if (drained !== undefined) yield { name: 'drain', state: drained };
    const slot = this.writeSlot(state);
    if (slot !== undefined) yield { name: 'writeSlot', state: slot };
  }

  *#flushSteps(state: State): Generator<Step> {
    const begun = this.flush(state);
    if (begun !== undefined) yield { name: 'flush', state: begun };
    if (state.flushing === undefined) return;
    yield { name: 'flushed', state: this.flushed(state) };
    if (state.kills < this.bounds.kills) {
      yield { name: 'flushFails', ...this.kill(this.#everywhere(state, lose)) };
    }
  }

  /** One record of so many blocks, or undefined where it does not fit (or is one too many for the bounds). */
  append(state: State, blocks: number): State | undefined {
    const { ringBlocks, commits, cells } = this.bounds;
    const spare = this.#mutant === 'head-may-reach-tail' ? 0 : 1;
    const room = ringBlocks - spare - (state.headLog - state.freedLog);
    if (state.commits >= commits || blocks > room || !this.isInReach(state)) return undefined;
    const last = this.last(state);
    const sequence = last.sequence + 1;
    const position = state.headLog % ringBlocks;
    const early = this.#mutant === 'claim-before-flush';
    const value = sequence;
    const cell = sequence % cells;
    const record = this.words.record({
      sequence,
      salt: this.#mutant === 'salt-kept' ? last.salt : state.salt,
      life: this.#mutant === 'salt-kept' ? false : state.lifePending,
      position,
      blocks,
      chain: last.chain,
      durableThrough: early ? sequence - 1 : state.durableSequence,
      cell,
      value,
    });
    const ring = [...state.ring];
    for (let block = 0; block < blocks; block++) {
      const at = (position + block) % ringBlocks;
      ring[at] = write(ring[at]!, blockContent(record, block));
    }
    const hasty = this.#mutant === 'write-back-before-durable';
    return {
      ...state,
      ring,
      lifePending: false,
      live: [...state.live, { record, endLog: state.headLog + blocks }],
      headLog: state.headLog + blocks,
      active: hasty ? replaced(state.active, cell, value) : state.active,
      durableSequence: early ? sequence : state.durableSequence,
      lineage: [...state.lineage, record],
      commits: state.commits + 1,
    };
  }

  /** LogSpace.isInReach: whether a record may begin at the head before a newer slot is durable [JRN-SLOT-018]. */
  isInReach(state: State): boolean {
    return state.headLog - state.claimedLog < maxUnclaimedBlocks(this.bounds.ringBlocks);
  }

  beginRound(state: State): State | undefined {
    const passes = state.durableSequence > state.tail.sequence;
    if (state.round !== undefined || !passes) return undefined;
    const round = { cut: state.durableSequence, draining: state.active, doneAtFlush: noFlush as AtFlush };
    return { ...state, round, active: state.active.map(() => 0) };
  }

  /** The next cell in place; when none is left, the round is done with the first flush that begins from then on. */
  drain(state: State): State | undefined {
    const { round } = state;
    if (round === undefined || round.doneAtFlush !== noFlush) return undefined;
    const cell = round.draining.findIndex((value) => value !== 0);
    if (cell < 0) return this.#drained(state);
    const cells = [...state.cells];
    cells[cell] = write(cells[cell]!, round.draining[cell]!);
    return { ...state, cells, round: { ...round, draining: replaced(round.draining, cell, 0) } };
  }

  #drained(state: State): State {
    const round = state.round!;
    const cut = this.#mutant === 'cut-at-end' ? state.durableSequence : round.cut;
    if (this.#mutant === 'slot-before-write-back') {
      return { ...this.#passThrough(state, cut), round: undefined };
    }
    const counts = this.#mutant === 'flush-under-way-covers' && state.flushing !== undefined;
    return { ...state, round: { ...round, cut, doneAtFlush: counts ? underWay : next } };
  }

  /** LogSpace.passThrough: every effect of the records up to `sequence` is in place and flushed. */
  #passThrough(state: State, sequence: number): State {
    const passed = state.live.filter(({ record }) => this.#sequence(record) <= sequence);
    const last = passed.at(-1);
    if (last === undefined) return state;
    const { salt } = this.words.recordOf(last.record);
    const tail: Tail = {
      sequence: this.words.recordOf(last.record).sequence,
      chain: last.record,
      salt,
      endLog: last.endLog,
    };
    return { ...state, tail, live: state.live.slice(passed.length), slotDue: true };
  }

  writeSlot(state: State): State | undefined {
    const may = state.slotAtFlush === noFlush || this.#mutant === 'slot-while-slot-pending';
    const { generation, durableSequence } = this.words.slotOf(state.slot);
    // The engine waits until much has been appended that no slot knows of; here it need not.
    const due = state.slotDue || state.durableSequence > durableSequence;
    if (!due || !may) return undefined;
    const slot = this.words.slot({
      generation: generation + 1,
      tailPosition: state.tail.endLog % this.bounds.ringBlocks,
      tailSequence: state.tail.sequence + 1,
      tailSalt: state.tail.salt,
      tailChain: state.tail.chain,
      durableSequence: state.durableSequence,
    });
    const slots = [...state.slots];
    const index = (generation + 1) % 2;
    slots[index] = write(slots[index]!, slot);
    const freedBySlot = state.tail.endLog;
    const known = state.live.findLast(({ record }) => this.#sequence(record) <= state.durableSequence);
    const claimedBySlot = known?.endLog ?? state.tail.endLog;
    const freedLog = this.#mutant === 'reuse-at-slot-write' ? freedBySlot : state.freedLog;
    return { ...state, slots, slot, slotDue: false, slotAtFlush: next, freedBySlot, freedLog, claimedBySlot };
  }

  flush(state: State): State | undefined {
    if (state.flushing !== undefined || state.phase === 'reassert') return undefined;
    if (!this.hasPending(state) && state.round?.doneAtFlush !== next) return undefined;
    const { round } = state;
    return {
      ...this.#everywhere(state, cover),
      slotAtFlush: state.slotAtFlush === next ? underWay : state.slotAtFlush,
      round: round?.doneAtFlush === next ? { ...round, doneAtFlush: underWay } : round,
      flushing: this.last(state).sequence,
    };
  }

  flushed(before: State): State {
    let state = this.#everywhere(before, complete);
    const late = this.#mutant === 'acknowledge-at-flush-begin';
    const appended = late ? this.last(state).sequence : before.flushing!;
    const active = [...state.active];
    for (const number of state.lineage.slice(state.durableSequence, appended)) {
      const { cell, value } = this.words.recordOf(number);
      active[cell] = value;
    }
    state = {
      ...state,
      active,
      flushing: undefined,
      durableSequence: Math.max(state.durableSequence, appended),
      acknowledged: Math.max(state.acknowledged, appended),
      phase: 'running',
    };
    if (state.slotAtFlush === underWay) {
      state = {
        ...state,
        slotAtFlush: noFlush,
        freedLog: state.freedBySlot,
        claimedLog: state.claimedBySlot,
      };
    }
    if (state.round?.doneAtFlush !== underWay) return state;
    return { ...this.#passThrough(state, state.round.cut), round: undefined };
  }

  /** The same bytes over what was read: the slot, and the records that nothing claims to be durable. */
  reassert(state: State): State {
    const again = this.#mutant !== 'reassert-flushes-only';
    const { generation } = this.words.slotOf(state.slot);
    const slots = [...state.slots];
    const ring = [...state.ring];
    if (again) slots[generation % 2] = write(slots[generation % 2]!, state.slot);
    for (const { record } of again ? state.live : []) {
      const { sequence, position, blocks } = this.words.recordOf(record);
      if (sequence <= state.claimedSequence) continue;
      for (let block = 0; block < blocks; block++) {
        const at = (position + block) % ring.length;
        ring[at] = write(ring[at]!, blockContent(record, block));
      }
    }
    const written: State = { ...state, slots, ring, phase: 'reasserted' };
    // With nothing pending the flush makes no difference, and is not modelled as a step.
    if (this.hasPending(written)) return written;
    return {
      ...written,
      phase: 'running',
      acknowledged: Math.max(state.acknowledged, this.last(state).sequence),
    };
  }

  /** The process dies, and the next one opens what can be read. */
  kill(before: State): Pick<Step, 'state' | 'broken'> {
    const disk = diskOf(before, visible);
    const log = recoverLog(disk, this.words, this.bounds.cells);
    return this.#reopen({ ...before, kills: before.kills + 1 }, disk, log);
  }

  *#crash(before: State): Generator<Step> {
    const counted = { ...before, crashes: before.crashes + 1 };
    for (const disk of disksOf(before)) {
      const log = recoverLog(disk, this.words, this.bounds.cells);
      const kept: State = {
        ...counted,
        ring: disk.ring.map((content) => [content]),
        slots: disk.slots.map((content) => [content]),
        cells: disk.cells.map((content) => [content]),
      };
      yield {
        name: `crash ${[...disk.ring, ...disk.slots, ...disk.cells].join(' ')}`,
        ...this.#reopen(kept, disk, log),
      };
    }
  }

  #reopen(before: State, disk: Disk, log: ModelLog | string): Pick<Step, 'state' | 'broken'> {
    const broken = typeof log === 'string' ? log : judge(before, disk, log, this.words);
    if (typeof log === 'string' || broken !== undefined) return { state: undefined, broken: broken ?? '' };
    const phase: Phase = this.#mutant === 'no-reassert' ? 'running' : 'reassert';
    return { state: opened(before, log, this.words, phase, before.salt + 1) };
  }

  /** The record that the next one continues. */
  last(state: State): { readonly sequence: number; readonly chain: number; readonly salt: number } {
    const live = state.live.at(-1);
    if (live === undefined) return state.tail;
    const { sequence, salt } = this.words.recordOf(live.record);
    return { sequence, chain: live.record, salt };
  }

  #sequence(record: number): number {
    return this.words.recordOf(record).sequence;
  }

  hasPending({ ring, slots, cells }: State): boolean {
    return ring.some(isPending) || slots.some(isPending) || cells.some(isPending);
  }

  #everywhere(state: State, change: (place: Place) => Place): State {
    return {
      ...state,
      ring: state.ring.map(change),
      slots: state.slots.map(change),
      cells: state.cells.map(change),
    };
  }
}

function replaced(list: readonly number[], at: number, value: number): readonly number[] {
  return list.map((old, index) => (index === at ? value : old));
}

export function diskOf({ ring, slots, cells }: State, choose: (place: Place) => number): Disk {
  return { ring: ring.map(choose), slots: slots.map(choose), cells: cells.map(choose) };
}

/** Every disk that a crash may leave. */
export function* disksOf(state: State): Generator<Disk> {
  const choices = [...state.ring, ...state.slots, ...state.cells].map(outcomes);
  const chosen = choices.map(() => 0);
  const [ringEnd, slotsEnd] = [state.ring.length, state.ring.length + state.slots.length];
  for (;;) {
    const contents = choices.map((list, place) => list[chosen[place]!]!);
    yield {
      ring: contents.slice(0, ringEnd),
      slots: contents.slice(ringEnd, slotsEnd),
      cells: contents.slice(slotsEnd),
    };
    let place = 0;
    for (; place < choices.length; place++) {
      chosen[place]!++;
      if (chosen[place]! < choices[place]!.length) break;
      chosen[place] = 0;
    }
    if (place === choices.length) return;
  }
}
