/**
 * What the real engine does is something that the model may do. The engine runs on a recording device with random commits,
 * killed now and then; each append, write in place, slot and flush is a step that the model must be able to take,
 * and records, slots and what the engine says of itself must be the model's.
 *
 * The model may begin a round, or find it drained, at moments that no device operation shows; so a set of states is followed, and
 * what the engine shows cuts it down. It must never become empty.
 */
import {
  type BlockDevice,
  isPromise,
  MemoryDevice,
  RecordingDevice,
  run,
  type Task,
} from '@qcow2/block-device';
import { decodeSlot, type JournalSlot, peekRecordHeader } from '@qcow2/codec/journal/v1';
import {
  formatArea,
  type JournalClient,
  JournalEngine,
  type JournalUse,
  reassertLog,
  recoverLog,
} from '@qcow2/journal';
import { SeededRandom } from '@qcow2/seeded';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type Bounds, Model } from '../../src/model/model.ts';
import { hashOf, type State } from '../../src/model/state.ts';
import { area, blockBytes, bytesOfValue, cellAt, ringAt, ringBlocks } from './real-journal.ts';

const cells = 3;
const fillerAt = 16384;
const bounds: Bounds = { ringBlocks, cells, recordBlocks: 3, commits: 1e6, crashes: 0, kills: 1e6 };
const sink = { guestWrite: () => undefined, guestSettled: () => undefined };

/** Nothing but metadata: no guest writes, no dirty bit. */
class IdleClient implements JournalClient {
  readonly unloggedGuestBytes = 0;
  beginCommit(): void {}
  hasCommitWrites(): boolean {
    return false;
  }
  takeGuestWrites(): readonly [] {
    return [];
  }
  *settleUnlogged(): Task<void> {}
  readonly roundPieces = 0;
  beginRound(): void {}
  *stepRound(): Task<void> {}
  *markDirty(): Task<void> {}
  *markClean(): Task<void> {}
  *beforeFlush(): Task<void> {}
}

class Follower {
  readonly model = new Model(bounds);
  states: readonly State[] = [this.model.initial()];
  seen = 0;

  /** Take a step in every state in which it is possible. */
  take(what: string, step: (state: State) => State | undefined): void {
    const after = this.#closed(this.states).flatMap((state) => step(state) ?? []);
    expect(after.length, `${what}: no state of the model can do this`).toBeGreaterThan(0);
    this.states = distinct(after);
    this.seen++;
  }

  /** Keep the states that show what the engine shows. */
  keep(what: string, shows: (state: State) => boolean): void {
    const left = this.states.filter(shows);
    expect(left.length, `${what}: no state of the model shows this`).toBeGreaterThan(0);
    this.states = left;
  }

  /** With everything that may have happened unseen: a round began, or was found to be drained. */
  #closed(states: readonly State[]): readonly State[] {
    const all = [...states];
    for (const state of all) {
      const begun = this.model.beginRound(state);
      if (begun !== undefined) all.push(begun);
      const drained = state.round?.draining.every((value) => value === 0) === true;
      const done = drained ? this.model.drain(state) : undefined;
      if (done !== undefined) all.push(done);
    }
    return distinct(all);
  }
}

function distinct(states: readonly State[]): readonly State[] {
  return [...new Map(states.map((state) => [hashOf(state), state])).values()];
}

/** The device that the follower sits behind: each operation is shown to it as it happens. */
class ShownDevice extends RecordingDevice {
  onWrite: (offset: number, bytes: Uint8Array, event: string | undefined) => void = () => undefined;
  onFlush: (when: 'begins' | 'is done') => void = () => undefined;

  override write(offset: number, bytes: Uint8Array, options?: Parameters<BlockDevice['write']>[2]) {
    this.onWrite(offset, bytes, options?.event);
    return super.write(offset, bytes, options);
  }

  override flush(options?: Parameters<BlockDevice['flush']>[0]) {
    this.onFlush('begins');
    const done = super.flush(options);
    expect(isPromise(done)).toBe(false);
    this.onFlush('is done');
    return done;
  }
}

class Life {
  readonly #follower: Follower;
  readonly #device: ShownDevice;
  readonly #random: SeededRandom;
  #engine: JournalEngine | undefined;
  appendedBlocks = 0;
  slots = 0;
  /** Bytes that follow a record's first piece at the ring's end. */
  #wrapped = 0;

  constructor(device: ShownDevice, follower: Follower, random: SeededRandom) {
    this.#device = device;
    this.#follower = follower;
    this.#random = random;
    device.onWrite = (offset, bytes, event) => this.#written(offset, bytes, event);
    device.onFlush = (when) => this.#flushed(when);
  }

  async open(dirty: boolean): Promise<void> {
    this.#engine = undefined;
    const log = await run(recoverLog(this.#device, area, sink));
    if (dirty) {
      const { model } = this.#follower;
      this.#follower.take('kill', (state) => model.kill(state).state);
      this.#follower.keep('recovery', ({ live }) => live.length === log.records.length);
      this.#follower.take('reassert', (state) => model.reassert(state));
      await run(reassertLog(this.#device, area, log));
    }
    this.#engine = new JournalEngine({
      device: this.#device,
      area,
      client: new IdleClient(),
      random: (into) => this.#random.fill(into),
      log,
      dirty: true,
      writeBackAt: this.#random.below(2) === 0 ? 0.01 : 0.25,
    });
  }

  /** One commit of one cell, its record of one to three blocks. */
  async commit(): Promise<void> {
    const engine = this.#engine!;
    const value = engine.lastSequence + 1;
    const size = [0, 4096, 8192][this.#random.below(3)]!;
    engine.submit({
      hostWrites: [
        { hostOffset: hostOffset(cellAt(value % cells)), bytes: bytesOfValue(value) },
        ...(size === 0
          ? []
          : [{ hostOffset: hostOffset(fillerAt), bytes: new Uint8Array(size).fill(value) }]),
      ],
      required: true,
      afterData: false,
    });
    await run(engine.commit());
    this.#compareUse(engine.use);
  }

  #written(offset: number, bytes: Uint8Array, event: string | undefined): void {
    const { model } = this.#follower;
    // Written again by recovery: `reassert` was one step of the model.
    if (this.#engine === undefined) return;
    if (event === 'journal_append') this.#appended(offset, bytes);
    else if (event === 'journal_slot') this.#slotWritten(offset, bytes);
    else if (event === 'journal_write_back' && offset < fillerAt) {
      const cell = (offset - cellAt(0)) / 512;
      const value = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0));
      this.#follower.take(`cell ${cell} in place`, (state) =>
        state.round?.draining[cell] === value && state.round.draining.findIndex((one) => one !== 0) === cell
          ? model.drain(state)
          : undefined,
      );
    }
  }

  #appended(offset: number, bytes: Uint8Array): void {
    if (this.#wrapped > 0) {
      this.#wrapped -= bytes.length;
      expect(offset).toBe(ringAt);
      return;
    }
    const { model } = this.#follower;
    const header = peekRecordHeader(bytes)!;
    this.#wrapped = header.lengthBlocks * blockBytes - bytes.length;
    const { sequence, lengthBlocks, position, durableThrough, life } = header;
    this.appendedBlocks += lengthBlocks;
    this.#follower.take(`record ${sequence}`, (state) => model.append(state, lengthBlocks));
    this.#follower.keep(`record ${sequence}`, (state) => {
      const record = model.words.recordOf(state.lineage.at(-1)!);
      return (
        record.sequence === sequence &&
        record.position * blockBytes === position &&
        record.durableThrough === durableThrough &&
        record.life === life
      );
    });
  }

  #slotWritten(offset: number, bytes: Uint8Array): void {
    const { model } = this.#follower;
    const slot = decodeSlot(bytes, { hostOffset: offset });
    this.slots++;
    this.#follower.take(`slot ${slot.generation}`, (state) => model.writeSlot(state));
    this.#follower.keep(`slot ${slot.generation}`, (state) => sameSlot(slot, model, state));
  }

  #flushed(when: 'begins' | 'is done'): void {
    const { model } = this.#follower;
    // A flush with nothing to make durable is none for the model.
    if (when === 'begins') this.#follower.take('flush', (state) => model.flush(state) ?? state);
    else {
      this.#follower.take('flushed', (state) =>
        state.flushing === undefined ? state : model.flushed(state),
      );
    }
  }

  #compareUse(use: JournalUse): void {
    const { model } = this.#follower;
    this.#follower.keep('use', (state) => {
      const last = model.last(state).sequence;
      return (
        use.lastSequence === last &&
        use.durableSequence === state.durableSequence &&
        use.tailSequence === state.tail.sequence + 1 &&
        use.usedBytes === (state.headLog - state.tail.endLog) * blockBytes
      );
    });
  }
}

function sameSlot(slot: JournalSlot, model: Model, state: State): boolean {
  const modelled = model.words.slotOf(state.slot);
  return (
    slot.generation === modelled.generation &&
    slot.tailPosition === modelled.tailPosition * blockBytes &&
    slot.tailSequence === modelled.tailSequence &&
    slot.durableSequence === modelled.durableSequence
  );
}

describe('the engine follows the model', () => {
  it.each(Array.from({ length: 12 }, (_, index) => index + 1))(
    '[JRN-WB-002, JRN-WB-004, JRN-SLOT-017, JRN-REC-010] seed %i',
    async (seed) => {
      const random = new SeededRandom(seed);
      const device = new ShownDevice(new MemoryDevice({ sizeBytes: area.hostOffset + area.lengthBytes }));
      await run(formatArea(device, area, blockBytes, (into) => random.fill(into)));
      const follower = new Follower();
      const life = new Life(device, follower, random);
      await life.open(false);
      for (let commit = 0; commit < 80; commit++) {
        if (random.chance(20)) await life.open(true);
        await life.commit();
      }
      // It went round and round, and the slots moved.
      expect(life.appendedBlocks).toBeGreaterThan(5 * ringBlocks);
      expect(life.slots).toBeGreaterThan(15);
      expect(follower.seen).toBeGreaterThan(300);
    },
  );
});
