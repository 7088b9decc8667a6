import { MemoryDevice } from '@qcow2/block-device';
import { StorageError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { CopyFigures, dryRun, keptInMemory } from './dry-run.ts';
import { CommandFailure } from './failures.ts';

describe('a dry run', () => {
  it('ends by name where its changes would take too much memory, also where somebody has wrapped that', async () => {
    const device = keptInMemory(new MemoryDevice({ sizeBytes: 2 ** 30 }));
    const overflow = () => device.writeZeroes(0, 2 ** 29);
    const wrapped = (): void => {
      try {
        overflow();
      } catch (error) {
        throw new StorageError('WRITE_FAILED', 'somewhere above', {}, error);
      }
    };
    for (const action of [overflow, wrapped]) {
      const failing = dryRun(true, async () => action());
      await expect(failing).rejects.toThrow(CommandFailure);
      await expect(failing).rejects.toThrow('given up: a dry run holds changes of 256 MiB');
    }
    await expect(dryRun(false, async () => wrapped())).rejects.toThrow('somewhere above');
  });

  it('leaves every other failure as it is', async () => {
    const full = new StorageError('NO_SPACE', 'the header has no room');
    await expect(dryRun(true, async () => Promise.reject(full))).rejects.toBe(full);
  });

  it('counts what a copy would write', () => {
    const figures = new CopyFigures();
    figures.add({ kind: 'data', lengthBytes: 65_536 });
    figures.add({ kind: 'zero', lengthBytes: 10 });
    figures.add({ kind: 'leave', lengthBytes: 999 });
    expect(figures.text(65_536)).toBe(
      '    data written: 65536 bytes (1 cluster)\n    zeros written: 10 bytes\n',
    );
    expect(figures.text(undefined)).toContain('data written: 65536 bytes\n');
  });
});
