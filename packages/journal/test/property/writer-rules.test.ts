/** Random work on the smallest ring, and every act of the writer held against the clauses (`log-audit`). */
import {
  type BlockDevice,
  FaultDevice,
  MemoryDevice,
  type RecordedOperation,
  RecordingDevice,
  run,
  ShuffledScheduler,
} from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { readSlots } from '../../src/index.ts';
import { auditLog } from '../support/log-audit.ts';
import { type Random, random } from '../support/random.ts';
import { area, formatted, guestSectors, SectorGuest, sectorBytes } from '../support/sector-guest.ts';

interface Setup {
  readonly name: string;
  readonly blockBytes: number;
  readonly asynchronous: boolean;
  readonly tuning: { directBytes?: number; writeBackAt?: number };
}

const setups: readonly Setup[] = [
  { name: 'blocks of 512', blockBytes: 512, asynchronous: false, tuning: {} },
  { name: 'blocks of 4096', blockBytes: 4096, asynchronous: false, tuning: {} },
  {
    name: 'blocks of 512, write-back at once',
    blockBytes: 512,
    asynchronous: false,
    tuning: { writeBackAt: 0.01 },
  },
  {
    name: 'blocks of 4096, nothing doubled',
    blockBytes: 4096,
    asynchronous: false,
    tuning: { directBytes: 0 },
  },
  {
    name: 'blocks of 512, write-back late',
    blockBytes: 512,
    asynchronous: false,
    tuning: { writeBackAt: 0.9 },
  },
  { name: 'blocks of 512, asynchronous', blockBytes: 512, asynchronous: true, tuning: {} },
  {
    name: 'blocks of 4096, asynchronous',
    blockBytes: 4096,
    asynchronous: true,
    tuning: { writeBackAt: 0.1 },
  },
];

class Workload {
  /** What each sector and counter held since the last flush: the last one is what it holds. */
  readonly sectors: Uint8Array[][];
  readonly counters: bigint[][];
  readonly #rng: Random;
  readonly #guest: () => SectorGuest;

  constructor(rng: Random, guest: () => SectorGuest) {
    this.#rng = rng;
    this.#guest = guest;
    this.sectors = Array.from({ length: guestSectors }, () => [new Uint8Array(sectorBytes)]);
    this.counters = Array.from({ length: 256 }, () => [0n]);
  }

  async step(): Promise<void> {
    const rng = this.#rng;
    const kind = rng.below(10);
    if (kind < 4) {
      for (let i = rng.below(rng.pick([2, 2, 30])); i >= 0; i--) this.#write(rng.below(guestSectors));
    } else if (kind < 6) {
      for (let i = rng.below(rng.pick([4, 40, 250])); i >= 0; i--) await this.#count(rng.below(256));
    } else if (kind < 9) {
      await this.#flush();
    } else if (rng.below(6) === 0) {
      await this.#guest().quiesce();
      this.#forget();
    }
  }

  #write(sector: number): void {
    const bytes = new Uint8Array(sectorBytes).fill(1 + this.#rng.below(255));
    this.sectors[sector]!.push(bytes);
    this.#guest().write(sector, bytes);
  }

  async #count(index: number): Promise<void> {
    // The client's part of the bargain (JRN-FAIL-003).
    if (this.#guest().engine.isBacklogged) await this.#flush();
    const value = BigInt(this.#rng.below(2 ** 31));
    this.counters[index]!.push(value);
    this.#guest().count(index, value);
  }

  /** Flushes, and writes while they are under way. */
  async #flush(): Promise<void> {
    const flushes = Array.from({ length: 1 + this.#rng.below(3) }, () => this.#guest().flush());
    const before = this.sectors.map((contents) => contents.length);
    const countersBefore = this.counters.map((values) => values.length);
    await Promise.resolve();
    for (let i = this.#rng.below(4); i > 0; i--) this.#write(this.#rng.below(guestSectors));
    await Promise.all(flushes);
    for (const [i, contents] of this.sectors.entries()) contents.splice(0, before[i]! - 1);
    for (const [i, values] of this.counters.entries()) values.splice(0, countersBefore[i]! - 1);
  }

  #forget(): void {
    for (const contents of this.sectors) contents.splice(0, contents.length - 1);
    for (const values of this.counters) values.splice(0, values.length - 1);
  }

  async expectSeen(guest: SectorGuest): Promise<void> {
    await this.#expect(guest, (values) => values.slice(-1));
  }

  /** After a crash: what was flushed, or something later. */
  async expectAllowed(guest: SectorGuest): Promise<void> {
    await this.#expect(guest, (values) => values);
  }

  async #expect(guest: SectorGuest, allowed: <T>(values: T[]) => T[]): Promise<void> {
    const wrong: string[] = [];
    for (const [sector, contents] of this.sectors.entries()) {
      const seen = await guest.read(sector);
      const right = allowed(contents).some((bytes) => bytes.every((byte, i) => byte === seen[i]));
      if (!right) wrong.push(`sector ${sector} holds ${seen[0]}`);
    }
    for (const [index, values] of this.counters.entries()) {
      const seen = await guest.counter(index);
      if (!allowed(values).includes(seen)) wrong.push(`counter ${index} is ${seen}`);
    }
    expect(wrong).toEqual([]);
  }
}

/** What is left of a device when of all that is not flushed storage keeps what has the event, and nothing else. */
function crashKeeping(
  event: RecordedOperation['event'] | 'nothing',
  start: MemoryDevice,
  log: readonly RecordedOperation[],
): MemoryDevice {
  const device = start.clone();
  const flushes = log.filter(({ kind, completedAt }) => kind === 'flush' && completedAt !== undefined);
  const lastStart = Math.max(-1, ...flushes.map(({ startedAt }) => startedAt));
  for (const operation of log) {
    if (operation.kind !== 'write') continue;
    const isDurable = (operation.completedAt ?? Number.POSITIVE_INFINITY) < lastStart;
    if (isDurable || operation.event === event) device.write(operation.offset, operation.bytes);
  }
  return device;
}

describe.each(setups)('$name', ({ blockBytes, asynchronous, tuning }) => {
  it.each([1, 2])(
    '[JRN-COMMIT-002, JRN-COMMIT-016, JRN-RECOV-011, JRN-SLOT-017, JRN-SLOT-018, JRN-WB-001, JRN-WB-002, JRN-WB-004, JRN-WB-005, JRN-WB-006, JRN-WB-009, JRN-WB-011] seed %i',
    async (seed) => {
      const rng = random(seed);
      const memory = new MemoryDevice();
      await formatted(memory, rng, blockBytes);
      const scheduler = new ShuffledScheduler(seed);
      const below: BlockDevice = asynchronous
        ? new FaultDevice(memory, { mode: 'async', scheduler })
        : memory;
      const { newer } = await run(readSlots(memory, area));
      const device = new RecordingDevice(below);
      const guest = await SectorGuest.open(device, rng, tuning);
      const workload = new Workload(rng, () => guest);
      for (let i = 0; i < 250; i++) await workload.step();
      await workload.expectSeen(guest);
      await guest.quiesce();
      expect(guest.engine.use).toMatchObject({ usedBytes: 0, dirty: false, pendingBytes: 0 });
      expect(guest.engine.counters.rounds).toBeGreaterThan(3);
      auditLog(device.log, area, blockBytes, newer);
      const reopened = await SectorGuest.open(memory, rng);
      await workload.expectSeen(reopened);
    },
  );

  it.each([3])(
    '[JRN-COMMIT-001, JRN-WB-003, JRN-WB-007, JRN-RECOV-009, JRN-RECOV-012] crashes on the way, seed %i',
    async (seed) => {
      const rng = random(seed);
      const memory = new MemoryDevice();
      await formatted(memory, rng, blockBytes);
      const start = memory.clone();
      const scheduler = new ShuffledScheduler(seed);
      const below: BlockDevice = asynchronous
        ? new FaultDevice(memory, { mode: 'async', scheduler })
        : memory;
      const device = new RecordingDevice(below);
      const guest = await SectorGuest.open(device, rng, tuning);
      const workload = new Workload(rng, () => guest);
      for (let i = 0; i < 150; i++) {
        await workload.step();
        if (i % 3 !== 0) continue;
        const kept = rng.pick(['nothing', 'journal_append', 'journal_slot', 'journal_write_back'] as const);
        const crashed = rng.below(3) === 0 ? memory.clone() : crashKeeping(kept, start, device.log);
        const recovered = await SectorGuest.open(crashed, rng);
        await workload.expectAllowed(recovered);
      }
    },
  );
});

it('[JRN-SLOT-018] commits as large as a ring takes never leave the reach of the newest durable slot', async () => {
  for (const seed of [1, 2]) {
    const rng = random(seed);
    const memory = new MemoryDevice();
    await formatted(memory, rng, 512);
    const { newer } = await run(readSlots(memory, area));
    const device = new RecordingDevice(memory);
    const guest = await SectorGuest.open(device, rng, { writeBackAt: 0.7 });
    for (let commit = 0; commit < 10; commit++) {
      for (let sector = 0; sector < 26; sector++) {
        guest.write((commit * 7 + sector) % guestSectors, new Uint8Array(sectorBytes).fill(commit + 1));
      }
      // Every second one: neighbours would be merged into one write.
      for (let i = 0; i < 256 && !guest.engine.isBacklogged; i += 2) guest.count(i, BigInt(commit * 256 + i));
      await guest.flush();
    }
    await guest.quiesce();
    auditLog(device.log, area, 512, newer);
  }
});
