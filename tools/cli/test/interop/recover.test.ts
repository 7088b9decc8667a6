/**
 * What a recovery does not call lost is what the disk held: on images of QEMU's and of ours, damaged at random. A few for each kind of image here;
 * QCOW2_RECOVER_ROUNDS=100 makes a campaign of it, QCOW2_SEED=N another one: the suite always draws the same.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MemoryDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { openImage, type RecoveredDisk, recoverDisk } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { seededRandom } from '../support/random.ts';
import { RecoveryDamage } from '../support/recovery-damage.ts';

interface Recipe {
  readonly name: string;
  readonly options: string;
  readonly size: string;
  readonly snapshot?: boolean;
  readonly compressed?: boolean;
  readonly backing?: boolean;
  /** Made by us. */
  readonly ours?: boolean;
}

const recipes: readonly Recipe[] = [
  { name: 'plain', options: 'cluster_size=4096', size: '6M' },
  { name: 'shared', options: 'cluster_size=4096', size: '4M', snapshot: true },
  { name: 'small', options: 'cluster_size=512,refcount_bits=64', size: '512k', snapshot: true },
  { name: 'large', options: 'cluster_size=65536', size: '4M' },
  { name: 'old', options: 'cluster_size=4096,compat=0.10', size: '4M' },
  { name: 'subclusters', options: 'cluster_size=16384,extended_l2=on', size: '20M' },
  { name: 'compressed', options: 'cluster_size=4096', size: '4M', compressed: true },
  { name: 'overlay', options: 'cluster_size=4096', size: '4M', backing: true },
  { name: 'journalled', options: 'cluster_size=4096,journal=on,journal_size=64k', size: '4M', ours: true },
];

const rounds = Number(process.env.QCOW2_RECOVER_ROUNDS ?? 3);

describeWith(['qemu-img', 'qemu-io'], 'recovery', () => {
  const scratch = scratchFolder();
  const at = (name: string): string => join(scratch.path, name);
  const originals = new Map<string, { readonly file: Uint8Array; readonly disk: Uint8Array }>();
  let base = new Uint8Array();
  afterAll(() => scratch.remove());

  beforeAll(async () => {
    must('qemu-img', ['create', '-q', '-f', 'raw', at('base.raw'), '4M']);
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 3M', at('base.raw')]);
    base = new Uint8Array(readFileSync(at('base.raw')));
    for (const { name, options, size, snapshot, compressed, backing, ours } of recipes) {
      const file = at(`${name}.qcow2`);
      const below = backing === true ? ['-b', at('base.raw'), '-F', 'raw'] : [];
      const words = ['create', '-q', '-f', 'qcow2', '-o', options, ...below, file, size];
      if (ours === true) expect(qcow2(words).status).toBe(0);
      else must('qemu-img', words);
      const flag = compressed === true ? '-c' : '-q';
      const writes = [0, 40, 92, 200, 352].map(
        (start, i) => `write ${flag} -P ${i + 1} ${start}k ${20 + i * 4}k`,
      );
      must('qemu-io', [...writes.flatMap((write) => ['-c', write]), '-c', 'write -z 300k 8k', file]);
      if (size !== '512k') must('qemu-io', ['-c', 'write -P 6 3M 80k', '-c', 'write -P 7 2500k 24k', file]);
      if (snapshot === true) {
        must('qemu-img', ['snapshot', '-c', 'one', file]);
        must('qemu-io', ['-c', 'write -P 8 50k 60k', file]);
      }
      if (ours === true) expect(qcow2(['resize', '-q', file, '+4096']).status).toBe(0);
      const bytes = new Uint8Array(readFileSync(file));
      originals.set(name, { file: bytes, disk: await contentOf(bytes, backing === true ? base : undefined) });
    }
  }, hookLimitMs);

  const contentOf = async (file: Uint8Array, below: Uint8Array | undefined): Promise<Uint8Array> => {
    const backing = below === undefined ? ('none' as const) : MemoryDevice.fromBytes(below);
    const options = { readOnly: true, backing, compression: nodeCompression() };
    const image = await openImage(MemoryDevice.fromBytes(file), options);
    const disk = new Uint8Array(image.sizeBytes);
    await image.read(0, disk);
    await image.close();
    return disk;
  };

  interface Figures {
    found: number;
    guess: number;
    lost: number;
  }

  /** Every range that is not lost is what the disk held; sectors that can not be read are lost. */
  const compare = async (recovered: RecoveredDisk, disk: Uint8Array, what: string): Promise<Figures> => {
    const figures = { found: 0, guess: 0, lost: 0 };
    let expected = 0;
    for await (const { offset, lengthBytes, state, why, kind } of recovered.ranges()) {
      expect(offset, what).toBe(expected);
      expected += lengthBytes;
      if (state === 'lost') {
        figures.lost += lengthBytes;
        continue;
      }
      for (let from = offset; from < Math.min(disk.length, offset + lengthBytes); from += 512) {
        const sector = new Uint8Array(Math.min(512, disk.length - from, offset + lengthBytes - from));
        try {
          if (kind === 'data') await recovered.image.read(from, sector);
        } catch (error) {
          if (!(error instanceof Qcow2Error)) throw error;
          figures.lost += sector.length;
          continue;
        }
        figures[state] += sector.length;
        const same = Buffer.compare(sector, disk.subarray(from, from + sector.length)) === 0;
        expect(same, `${what}: ${from} is ${state} (${why.id}), and another`).toBe(true);
      }
    }
    return figures;
  };

  for (const { name, backing } of recipes) {
    it(`${name}, damaged at random: what is not lost is what was there`, {
      timeout: hookLimitMs * 10,
    }, async () => {
      const { file, disk } = originals.get(name)!;
      const seed = Number(process.env.QCOW2_SEED ?? 1);
      const sum = { found: 0, guess: 0, lost: 0, refused: 0 };
      for (let round = 0; round < rounds; round++) {
        const rng = seededRandom(seed + round);
        const damage = new RecoveryDamage(file, rng);
        damage.damage(rng.between(1, 3));
        const what = `QCOW2_SEED=${seed + round} ${damage.done.join(', ')}`;
        let recovered: RecoveredDisk;
        try {
          const below = backing === true ? { backing: async () => MemoryDevice.fromBytes(base) } : {};
          recovered = await recoverDisk(damage.device(), { compression: nodeCompression(), ...below });
        } catch (error) {
          expect(error, what).toBeInstanceOf(Qcow2Error);
          sum.refused++;
          continue;
        }
        const figures = await compare(recovered, disk, what);
        sum.found += figures.found;
        sum.guess += figures.guess;
        sum.lost += figures.lost;
        await recovered.image.close();
      }
      if (process.env.QCOW2_RECOVER_ROUNDS !== undefined) console.log(name, JSON.stringify(sum));
      expect(sum.refused).toBeLessThan(rounds);
    });
  }

  it.each(recipes)('$name, sound: all is found', async ({ name, backing }) => {
    const { file, disk } = originals.get(name)!;
    const below = backing === true ? { backing: async () => MemoryDevice.fromBytes(base) } : {};
    const recovered = await recoverDisk(MemoryDevice.fromBytes(file), {
      compression: nodeCompression(),
      ...below,
    });
    expect(recovered).toMatchObject({ guesses: [], without: [], orphans: 0 });
    expect(await compare(recovered, disk, name)).toEqual({ found: disk.length, guess: 0, lost: 0 });
    await recovered.image.close();
  });
});
