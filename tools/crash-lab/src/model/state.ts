/**
 * A state of the model: storage, the writer's memory, and what the guest was promised. Names are those of the code that it
 * mirrors: `log-space.ts` (head, tail, freed, slotDue, slotAtFlush), `write-back.ts` (Round: cut, draining, doneAtFlush),
 * `engine.ts` and `flush-clock.ts` (durableSequence, the flush under way), `record-writer.ts` (salt, lifePending).
 *
 * Flushes have no numbers here. "The first flush that begins from now on" is `next`; once that has begun it is `underWay`.
 */
import type { Place } from './place.ts';

export type AtFlush = 0 | 1 | 2;
export const noFlush = 0;
export const next = 1;
export const underWay = 2;

export interface LiveRecord {
  readonly record: number;
  /** Log offset behind it, in blocks. */
  readonly endLog: number;
}

export interface Tail {
  readonly sequence: number;
  /** Number of the record before the tail, 0 for none. */
  readonly chain: number;
  readonly salt: number;
  readonly endLog: number;
}

export interface ModelRound {
  readonly cut: number;
  /** By cell: the value to be written, 0 for none. */
  readonly draining: readonly number[];
  readonly doneAtFlush: AtFlush;
}

/** After an opening: the recovered log is written again, then flushed, and only then relied on. */
export type Phase = 'reassert' | 'reasserted' | 'running';

export interface State {
  readonly ring: readonly Place[];
  readonly slots: readonly Place[];
  readonly cells: readonly Place[];

  readonly phase: Phase;
  readonly salt: number;
  readonly lifePending: boolean;
  readonly live: readonly LiveRecord[];
  readonly tail: Tail;
  readonly headLog: number;
  readonly freedLog: number;
  readonly freedBySlot: number;
  /** End of the record that the newest durable slot calls durable, and of the one that the last slot written does. */
  readonly claimedLog: number;
  readonly claimedBySlot: number;
  readonly slot: number;
  readonly slotDue: boolean;
  readonly slotAtFlush: AtFlush;
  readonly durableSequence: number;
  /** Last sequence that something on storage claims to be durable: what `reassertLog` leaves alone. */
  readonly claimedSequence: number;
  /** By cell: durable in the log, not in place; 0 for nothing. */
  readonly active: readonly number[];
  readonly round: ModelRound | undefined;
  /** Last sequence appended when the flush under way began; undefined where none is. */
  readonly flushing: number | undefined;

  /** Every record that this image's history consists of, by sequence from 1 on. */
  readonly lineage: readonly number[];
  /** Records up to here were acknowledged. */
  readonly acknowledged: number;

  readonly commits: number;
  readonly crashes: number;
  readonly kills: number;
}

/** All that a state is, as numbers: equal lists are equal states. */
export function numbersOf(state: State): number[] {
  const out: number[] = [];
  for (const place of [...state.ring, ...state.slots, ...state.cells]) out.push(place.length, ...place);
  const phase = state.phase === 'running' ? 0 : state.phase === 'reassert' ? 1 : 2;
  out.push(phase, state.salt, state.lifePending ? 1 : 0, state.live.length);
  for (const { record, endLog } of state.live) out.push(record, endLog);
  const { tail, round } = state;
  out.push(tail.sequence, tail.chain, tail.salt, tail.endLog);
  out.push(
    state.headLog,
    state.freedLog,
    state.freedBySlot,
    state.claimedLog,
    state.claimedBySlot,
    state.slot,
    state.slotDue ? 1 : 0,
    state.slotAtFlush,
  );
  out.push(state.durableSequence, state.claimedSequence, ...state.active);
  if (round === undefined) out.push(-1);
  else out.push(round.cut, round.doneAtFlush, ...round.draining);
  out.push(state.flushing ?? -1, state.acknowledged, state.lineage.length, ...state.lineage);
  out.push(state.commits, state.crashes, state.kills);
  return out;
}

/** 53 bits of hash of a state: among ten million states the chance that any two are confused is below 1 in 100. */
export function hashOf(state: State): number {
  let low = 0x811c9dc5;
  let high = 0x9e3779b9;
  for (const number of numbersOf(state)) {
    low = Math.imul(low ^ number, 0x01000193);
    low ^= low >>> 15;
    high = Math.imul(high ^ (number + 0x7f4a7c15), 0x85ebca6b);
    high ^= high >>> 13;
  }
  low = Math.imul(low ^ (high >>> 7), 0xc2b2ae35);
  return (high >>> 11) * 0x1_0000_0000 + (low >>> 0);
}
