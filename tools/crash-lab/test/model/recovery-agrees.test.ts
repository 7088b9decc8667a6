/**
 * The model's recovery and the real one, on the same disks: long random walks of the model through a ring of real size,
 * mutants too (their broken logs are the interesting ones); now and then a crash, whose disk is written as bytes and given to
 * `recoverLog`. Both find the same records, or both refuse.
 */
import { run } from '@qcow2/block-device';
import { recoverLog as recoverReal } from '@qcow2/journal';
import { SeededRandom } from '@qcow2/seeded';
import { Qcow2Error } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type Bounds, diskOf, Model } from '../../src/model/model.ts';
import type { Mutant } from '../../src/model/mutant.ts';
import { outcomes } from '../../src/model/place.ts';
import { type Disk, recoverLog } from '../../src/model/recovery.ts';
import type { State } from '../../src/model/state.ts';
import { area, blockBytes, cellAt, cellBytes, RealBytes, ringBlocks } from './real-journal.ts';

const bounds: Bounds = { ringBlocks, cells: 3, recordBlocks: 3, commits: 60, crashes: 0, kills: 3 };
const sink = { guestWrite: () => undefined, guestSettled: () => undefined };

interface Found {
  readonly refused: boolean;
  readonly sequences?: readonly number[];
  readonly ends?: readonly number[];
  readonly claimed?: number;
  readonly values?: readonly number[];
}

async function foundByReal(bytes: RealBytes, disk: Disk): Promise<Found> {
  const device = bytes.device(disk);
  try {
    const log = await run(recoverReal(device, area, sink));
    const values = disk.cells.map((_, cell) => {
      const into = new Uint8Array(cellBytes);
      device.read(cellAt(cell), into);
      log.hostWrites.apply(cellAt(cell), into);
      return Number(new DataView(into.buffer).getBigUint64(0));
    });
    return {
      refused: false,
      sequences: log.records.map(({ sequence }) => sequence),
      ends: log.records.map(({ endLog }) => endLog / blockBytes),
      claimed: log.claimedSequence,
      values,
    };
  } catch (error) {
    if (error instanceof Qcow2Error && error.code === 'JOURNAL_DAMAGED') return { refused: true };
    throw error;
  }
}

function foundByModel(model: Model, disk: Disk): Found {
  const log = recoverLog(disk, model.words, bounds.cells);
  if (typeof log === 'string') return { refused: true };
  return {
    refused: false,
    sequences: log.live.map(({ record }) => model.words.recordOf(record).sequence),
    ends: log.live.map(({ endLog }) => endLog),
    claimed: log.claimedSequence,
    values: disk.cells.map((inPlace, cell) => log.values[cell] || inPlace),
  };
}

/** A step drawn from all that may happen; undefined where nothing may. */
function drawn(model: Model, state: State, random: SeededRandom): State | undefined {
  const possible = [...model.steps(state)].filter((step) => step.state !== undefined);
  if (possible.length === 0) return undefined;
  // Kills are rare, or no ring would ever fill.
  const usual = possible.filter(({ name }) => name !== 'kill' && name !== 'flushFails');
  const list = usual.length > 0 && !random.chance(12) ? usual : possible;
  return list[random.below(list.length)]!.state;
}

const variants: readonly (Mutant | undefined)[] = [
  undefined,
  'reuse-at-slot-write',
  'slot-while-slot-pending',
  'salt-kept',
  'claim-before-flush',
  'no-reassert',
];

describe('recovery of the model and of the engine', () => {
  it.each(variants)('[JRN-RECOV-004, JRN-RECOV-006, JRN-RECOV-007] agree (%s)', async (mutant) => {
    let disks = 0;
    let refused = 0;
    for (let seed = 1; seed <= 12; seed++) {
      const random = new SeededRandom(seed);
      const model = new Model(bounds, mutant);
      const bytes = new RealBytes(model.words);
      let state: State | undefined = model.initial();
      for (let step = 0; step < 260 && state !== undefined; step++) {
        if (step % 3 === 0) {
          const disk = diskOf(state, (place) => {
            const list = outcomes(place);
            return list[random.below(list.length)]!;
          });
          const expected = foundByModel(model, disk);
          expect(await foundByReal(bytes, disk), `seed ${seed}, step ${step}`).toEqual(expected);
          disks++;
          if (expected.refused) refused++;
        }
        state = drawn(model, state, random);
      }
    }
    expect(disks).toBeGreaterThan(300);
    // Without a mutation nothing is ever refused; with the right one, something is.
    if (mutant === undefined) expect(refused).toBe(0);
    if (mutant === 'claim-before-flush') expect(refused).toBeGreaterThan(0);
  });
});
