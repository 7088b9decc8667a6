/** Every kind of image once, with few operations; `pnpm differential` goes on from here. And what the comparison itself would miss. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '@qcow2/seeded';
import { describe, expect, it } from 'vitest';
import { DiskModel } from '../../src/disk-model.ts';
import { kindNamed, kinds } from '../../src/kinds.ts';
import { Qemu } from '../../src/qemu.ts';
import { run } from '../../src/run.ts';
import { Scene } from '../../src/scene.ts';
import { Subject } from '../../src/subject.ts';
import { verifyClosed, verifyOpen, verifyTheirs } from '../../src/verification.ts';

const operations = 24;
const seed = 1;

const isThere = Qemu.isInstalled();
if (!isThere) {
  process.stderr.write(
    '\n*** SKIPPED: beside a model: missing qemu-img, qemu-io, qemu-nbd (Debian: qemu-utils) ***\n\n',
  );
  it.runIf(process.env.CI === 'true')('needs qemu-utils', () => expect(isThere).toBe(true));
}

describe.runIf(isThere)('beside a model', () => {
  it.each(kinds.map(({ name }) => name))(`%s, seed ${seed}`, async (name) => {
    const { failure, tally } = await run({ kind: kindNamed(name)!, seed, operations });
    expect(failure).toBe(undefined);
    expect(Object.values(tally.operations).reduce((sum, count) => sum + count, 0)).toBe(operations);
  });

  async function withScene(use: (scene: Scene, random: SeededRandom) => Promise<void>): Promise<void> {
    const folder = mkdtempSync(join(tmpdir(), 'qcow2-differential-'));
    const kind = kindNamed('lazy-v3-64k-r16')!;
    const subject = new Subject(kind, folder);
    const random = new SeededRandom(seed);
    try {
      const qemu = new Qemu(folder, false);
      const scene = new Scene(kind, subject, qemu, new DiskModel(await subject.make(random, qemu)));
      await scene.open(random);
      await use(scene, random);
    } finally {
      subject.abandon();
      rmSync(folder, { recursive: true, force: true });
    }
  }

  it('a byte that the model does not have is seen, by us and by QEMU', async () => {
    await withScene(async (scene, random) => {
      await verifyOpen(scene);
      await scene.subject.image.write(70_000, Uint8Array.of(1));
      await expect(verifyOpen(scene)).rejects.toThrow('byte 70000 is 1, not 0');
      await scene.close();
      await expect(verifyClosed(scene, random)).rejects.toThrow('QEMU shows another disk');
    });
  });

  it('a bit that is lost, and one too many, are seen', async () => {
    await withScene(async (scene) => {
      const { model, subject } = scene;
      await subject.image.addBitmap('b', { granularityBytes: 4096 });
      model.addBitmap('b', 4096, true);
      model.fill(70_000, 1, 0);
      await expect(verifyOpen(scene)).rejects.toThrow('69632 is not dirty, and has changed');
      await subject.image.write(70_000, Uint8Array.of(0));
      await verifyOpen(scene);
      await subject.image.write(4096, Uint8Array.of(0));
      await expect(verifyOpen(scene)).rejects.toThrow('4096 is dirty, and nobody has asked');
      await scene.close();
      expect(() => verifyTheirs(scene)).toThrow('QEMU says of bitmap b');
    });
  });

  it('a snapshot that is not there, and a refusal that does not come, are seen', async () => {
    await withScene(async (scene) => {
      scene.model.createSnapshot('s');
      await expect(verifyOpen(scene)).rejects.toThrow('snapshots: ; not s');
      const refusals = [{ code: 'NO_SPACE', comes: 'certainly' }] as const;
      await expect(scene.attempt(() => undefined, refusals)).rejects.toThrow('to be refused with NO_SPACE');
      await expect(scene.attempt(() => scene.subject.image.removeBitmap('x'), refusals)).rejects.toThrow(
        'no such bitmap',
      );
    });
  });
});
