/**
 * Operations of many records on the smallest ring: what is open at a crash is found, with what was last said of it, however
 * often the tail has passed the record in which it began.
 */
import {
  type BlockDevice,
  FaultDevice,
  MemoryDevice,
  RecordingDevice,
  run,
  ShuffledScheduler,
} from '@qcow2/block-device';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { readSlots } from '../../src/index.ts';
import { OpenIntents } from '../../src/open-intents.ts';
import { auditLog } from '../support/log-audit.ts';
import { type Random, random } from '../support/random.ts';
import { area, formatted, SectorGuest, servedKind } from '../support/sector-guest.ts';

/** Id and progress of each open intent, as text. */
type State = string;

class Operations {
  readonly #guest: () => SectorGuest;
  readonly #rng: Random;
  readonly #open = new Map<number, number>();
  /** What was open after each submission. */
  readonly states: State[] = [''];
  /** The last of them that a flush has acknowledged. */
  floor = 0;
  readonly ids: number[] = [];

  constructor(rng: Random, guest: () => SectorGuest) {
    this.#rng = rng;
    this.#guest = guest;
  }

  step(): void {
    const ids = [...this.#open.keys()];
    const kind = this.#rng.below(12);
    if (kind === 0 && ids.length < 3) this.#say(this.#begin(), 0);
    else if (kind === 1 && ids.length > 0 && this.#rng.below(3) === 0) this.#end(this.#rng.pick(ids));
    else if (kind === 2 && ids.length > 0) {
      const id = this.#rng.pick(ids);
      this.#say(id, this.#open.get(id)! + 1);
    } else {
      for (let i = this.#rng.below(80); i >= 0; i--) {
        this.#guest().count(this.#rng.below(256), BigInt(this.#rng.below(2 ** 31)));
      }
    }
  }

  async flush(): Promise<void> {
    const covered = this.states.length - 1;
    await this.#guest().flush();
    this.floor = covered;
  }

  endAll(): void {
    for (const id of [...this.#open.keys()]) this.#end(id);
  }

  #begin(): number {
    const id = this.#guest().engine.newIntentId();
    this.ids.push(id);
    return id;
  }

  #say(id: number, progress: number): void {
    const body = new Uint8Array(4 + this.#rng.below(8));
    new DataView(body.buffer).setUint32(0, progress);
    this.#guest().engine.submit({ intent: { id, kind: servedKind, body }, required: true, afterData: false });
    this.#open.set(id, progress);
    this.#note();
  }

  #end(id: number): void {
    this.#guest().engine.submit({ intentDone: id, required: true, afterData: false });
    this.#open.delete(id);
    this.#note();
  }

  #note(): void {
    this.states.push(stateOf([...this.#open]));
  }
}

function stateOf(open: readonly (readonly [number, number])[]): State {
  return open
    .map(([id, progress]) => `${id}: ${progress}`)
    .sort()
    .join('; ');
}

/** Work on, crash often, look at what recovery finds open; then hold every act against the clauses. */
async function attack(seed: number, asynchronous: boolean, blockBytes: number, steps = 160): Promise<number> {
  const rng = random(seed);
  const memory = new MemoryDevice();
  await formatted(memory, rng, blockBytes);
  const { newer } = await run(readSlots(memory, area));
  const scheduler = new ShuffledScheduler(seed);
  const below: BlockDevice = asynchronous ? new FaultDevice(memory, { mode: 'async', scheduler }) : memory;
  const device = new RecordingDevice(below);
  const guest = await SectorGuest.open(device, rng);
  const operations = new Operations(rng, () => guest);
  let seen = 0;
  for (let i = 0; i < steps; i++) {
    operations.step();
    if (i % 2 === 0 || guest.engine.isBacklogged) await operations.flush();
    if (i % 16 !== 0) continue;
    const crashed = await SectorGuest.open(memory.clone(), rng);
    const found = stateOf(
      crashed.recoveredIntents.map(({ id, body }) => [id, new DataView(body.buffer).getUint32(0)]),
    );
    expect(operations.states.slice(operations.floor), `step ${i}`).toContain(found);
    if (found !== '') seen++;
    expect(crashed.engine.use).toMatchObject({ usedBytes: 0, dirty: false });
  }
  expect(guest.engine.counters.rounds).toBeGreaterThan(1);
  operations.endAll();
  await operations.flush();
  await guest.quiesce();
  auditLog(device.log, area, blockBytes, newer);
  expect(operations.ids).toEqual([...operations.ids].sort((a, b) => a - b));
  expect(new Set(operations.ids).size).toBe(operations.ids.length);
  return seen;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each([
  ['blocks of 512', false, 512],
  ['blocks of 4096', false, 4096],
  ['blocks of 512, asynchronous', true, 512],
] as const)('operations, %s', (_, asynchronous, blockBytes) => {
  it.each([1, 2])('[JRN-INTENT-003, JRN-INTENT-004] are found after a crash, seed %i', async (seed) => {
    expect(await attack(seed, asynchronous, blockBytes)).toBeGreaterThan(2);
  });

  it('are lost where the tail passes what nobody has repeated', async () => {
    vi.spyOn(OpenIntents.prototype, 'toRepeat').mockReturnValue([]);
    await expect(attack(1, asynchronous, blockBytes, 240)).rejects.toThrow();
  });
});
