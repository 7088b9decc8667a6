/**
 * Every read, write and flush of short workloads fails, in every way, on every mode of the driver; and a lab that could
 * not see it would be found out: disks that hide their failures must be.
 */
import type { FlushOptions, ReadOptions, WriteOptions } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { FailingDisk } from '../src/io-errors/failing-disk.ts';
import { type CaseFailure, formatCase, IoErrors, optionsFor, parseCase } from '../src/io-errors/io-errors.ts';
import { everyCase } from '../src/io-errors/plan.ts';
import type { SectorImage } from '../src/sector-image.ts';
import { labSystem, labSystems } from '../src/systems.ts';
import { namedWorkload } from '../src/workload.ts';

const chosen = labSystems.filter(
  ({ name, mode }) =>
    name === `${mode}+filled` || name === `${mode}+backing+filled` || name === 'journal+direct+filled',
);

describe('one operation of the device fails', () => {
  it.each(chosen.map(({ name }) => name))(
    '[JRN-FAIL-001, JRN-FAIL-002, JRN-RECOV-010] %s: everybody hears, and what was acknowledged is there',
    async (name) => {
      const failures: CaseFailure[] = [];
      const { tally } = await everyCase({
        systems: [labSystem(name)],
        length: 1,
        random: 1,
        seed: 1,
        part: 0,
        parts: 3,
        onFailure: (failure) => failures.push(failure),
      });
      expect(failures.slice(0, 5)).toEqual([]);
      expect(tally.cases).toBeGreaterThan(100);
    },
  );
});

/** Tells nobody. */
class SilentFlushes extends FailingDisk {
  override flush(options?: FlushOptions): void | Promise<void> {
    try {
      return super.flush(options);
    } catch {
      // The pages are clean now, as far as anybody knows.
    }
  }
}

class SilentWrites extends FailingDisk {
  override write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    try {
      return super.write(offset, bytes, options);
    } catch {
      // Lost.
    }
  }
}

class SilentReads extends FailingDisk {
  override read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    try {
      return super.read(offset, into, options);
    } catch {
      into.fill(0);
    }
  }
}

describe('a disk that hides its failures is found out', () => {
  it.each([
    ['flushes', 'journal+filled', 'sf', (image: SectorImage) => new SilentFlushes(image)],
    ['flushes', 'ordered+filled', 'sf', (image: SectorImage) => new SilentFlushes(image)],
    ['writes', 'journal+filled', 'sf', (image: SectorImage) => new SilentWrites(image)],
    ['writes', 'ordered+filled', 'sf', (image: SectorImage) => new SilentWrites(image)],
    ['reads', 'journal+filled', 'sf', (image: SectorImage) => new SilentReads(image)],
  ] as const)('%s on %s', async (_what, name, workload, diskOf) => {
    const entry = labSystem(name);
    const system = entry.make();
    const errors = new IoErrors(system, optionsFor(entry), diskOf);
    for (const one of await errors.casesOf(namedWorkload(system, workload))) await errors.run(one);
    const messages = errors.failures.map(({ message }) => message);
    expect(messages).toContain('nobody heard of the fault');
    // Not only that: something that was acknowledged is gone, or the image is not whole.
    if (_what !== 'reads') expect(messages.some((message) => message.startsWith('G'))).toBe(true);
  });
});

describe('the id of a case', () => {
  it('brings it back', () => {
    const fault = { workload: 'r1.3', kind: 'write-torn', nth: 12 };
    expect(parseCase(formatCase('journal+filled', fault))).toEqual({ system: 'journal+filled', fault });
    expect(parseCase('journal+filled/sf')).toBeUndefined();
  });
});
