/**
 * `check -r` beside the real qemu-img: on images that it made, damaged at random, it has nothing left to say of what we
 * repaired but what we say is left; and nothing that was not damaged is another.
 */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeCompression } from '@qcow2/compression';
import { type CheckReport, checkImage, openImage, repairImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { lostMappings, MetadataDamage } from '../support/metadata-damage.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';
import { runSeed, seededRandom } from '../support/random.ts';

interface Recipe {
  readonly name: string;
  readonly options: string;
  readonly snapshot: boolean;
  readonly compressed?: boolean;
  /** Not written to afterwards: what this driver does not write. */
  readonly onlyRepaired?: boolean;
}

const recipes: readonly Recipe[] = [
  { name: 'plain', options: 'cluster_size=4096', snapshot: false },
  { name: 'shared', options: 'cluster_size=4096', snapshot: true },
  { name: 'small', options: 'cluster_size=512,refcount_bits=64', snapshot: true },
  { name: 'bit', options: 'cluster_size=1024,refcount_bits=1', snapshot: false },
  { name: 'narrow', options: 'cluster_size=2048,refcount_bits=2', snapshot: true },
  { name: 'old', options: 'cluster_size=4096,compat=0.10', snapshot: true },
  { name: 'subclusters', options: 'cluster_size=16384,extended_l2=on', snapshot: true, onlyRepaired: true },
  { name: 'compressed', options: 'cluster_size=4096', snapshot: true, compressed: true },
];

const rounds = 15;

/**
 * What `qemu-img check` may end with where this is left. Bit 63 of an entry that leads nowhere means nothing to QEMU; we
 * leave it in a table that is something else as well [REP-005].
 */
function statusOfQemu({ findings, corruptions, leaks }: CheckReport): readonly number[] {
  const onlyOurs = findings.filter(({ message }) => message.startsWith('bit 63 is set and no '));
  return corruptions > onlyOurs.length ? [1, 2] : [leaks > 0 ? 3 : 0];
}

describeWith(['qemu-img', 'qemu-io'], 'check -r beside qemu-img', () => {
  const scratch = scratchFolder();
  const at = (name: string): string => join(scratch.path, name);
  afterAll(() => scratch.remove());

  beforeAll(() => {
    for (const { name, options, snapshot, compressed } of recipes) {
      const file = at(`${name}.qcow2`);
      must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, file, '512k']);
      const flag = compressed === true ? '-c' : '-q';
      must('qemu-io', ['-c', `write ${flag} -P 1 0 80k`, '-c', `write ${flag} -P 2 300k 48k`, file]);
      must('qemu-io', ['-c', 'write -z 200k 3k', file]);
      if (snapshot) {
        must('qemu-img', ['snapshot', '-c', 'one', file]);
        must('qemu-io', ['-c', 'write -P 3 50k 60k', '-c', 'write -P 4 400k 20k', file]);
      }
    }
  }, hookLimitMs);

  for (const { name, onlyRepaired } of recipes) {
    it(`[REP-001, REP-003] damaged at random, ${name}: repaired, or said to be left`, async () => {
      const sound = new Uint8Array(readFileSync(at(`${name}.qcow2`)));
      const seed = runSeed();
      for (let round = 0; round < rounds; round++) {
        const rng = seededRandom(seed + round);
        const damage = new MetadataDamage(sound.slice(), rng);
        damage.damage(rng.between(1, 4));
        const what = `QCOW2_SEED=${seed}, round ${round}: ${damage.done.join(', ')}`;
        const file = at('repaired.qcow2');
        writeFileSync(file, damage.bytes);
        const device = openFile(file);
        const { left } = await repairImage(device, { repair: 'all' });
        // The file may be much longer now: what there was stands where it stood.
        const after = new Uint8Array(sound.length);
        device.read(0, after);
        device.close();
        expect(lostMappings(sound, damage.bytes, after), what).toEqual([]);
        const { status, stderr } = run('qemu-img', ['check', '-q', file]);
        expect(statusOfQemu(left), `${what}\n${stderr}`).toContain(status);
        if (left.corruptions === 0 && status === 0 && onlyRepaired !== true) await expectWritable(file, what);
      }
    });
  }

  async function expectWritable(file: string, what: string): Promise<void> {
    const image = await openImage(openFile(file), { compression: nodeCompression() });
    await image.write(0, new Uint8Array(image.sizeBytes).fill(7));
    await image.close();
    const device = openFile(file);
    const { findings } = await checkImage(device);
    device.close();
    // Who shared a cluster with one that was written is alone there now, and does not know: L2 entries beyond the disk, say.
    expect(
      findings.filter(({ message }) => !message.includes('the copied flag is clear')),
      what,
    ).toEqual([]);
  }

  it('[REP-010] bitmaps are counted, and stay', () => {
    const file = at('bitmaps.qcow2');
    copyFileSync(at('plain.qcow2'), file);
    must('qemu-img', ['bitmap', '--add', file, 'b']);
    const bytes = new Uint8Array(readFileSync(file));
    const damage = new MetadataDamage(bytes, seededRandom(3));
    damage.damage(1);
    bytes[79]! |= 2;
    writeFileSync(file, bytes);
    expect(qcow2(['check', '-q', '-r', 'all', file]).status).toBe(0);
    expect(must('qemu-img', ['info', file])).toContain('name: b');
    expect(run('qemu-img', ['check', '-q', file])).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  /** An L2 entry of `plain`, or the like, and what stands there instead. */
  const damages: readonly (readonly [string, (image: DataView, l2: number, block: number) => void])[] = [
    ['sound', () => undefined],
    ['leak', (image, l2) => image.setBigUint64(l2, 0n)],
    ['too-high', (image, _l2, block) => image.setUint16(block + 2 * 8, 3)],
    ['twice', (image, l2) => image.setBigUint64(l2, image.getBigUint64(l2 + 8))],
    ['not-copied', (image, l2) => image.setUint8(l2, 0)],
    ['zero-nowhere', (image, l2) => image.setBigUint64(l2, 0x8000_0000_0000_5201n)],
    ['marked', (image) => image.setUint8(79, 3)],
  ];

  for (const [name, damage] of damages) {
    for (const args of [['leaks'], ['all'], ['all', '--output=json'], ['leaks', '-q']]) {
      if (name === 'zero-nowhere' && args[0] === 'leaks') continue;
      const words = ['check', '-r', ...args, 'x.qcow2'];
      it(`says what qemu-img says of a repair: ${name}, ${words.join(' ')}`, () => {
        const folders = ['ours', 'theirs'].map((folder) => at(`${name}-${args.join('')}-${folder}`));
        for (const folder of folders) {
          must('mkdir', ['-p', folder]);
          const bytes = new Uint8Array(readFileSync(at('plain.qcow2')));
          const view = new DataView(bytes.buffer);
          const table = Number(view.getBigUint64(48));
          const l1 = Number(view.getBigUint64(40));
          const l2 = Number(view.getBigUint64(l1) & 0x00ff_ffff_ffff_fe00n);
          damage(view, l2, Number(view.getBigUint64(table)));
          writeFileSync(join(folder, 'x.qcow2'), bytes);
        }
        const [ourFolder, theirFolder] = folders as [string, string];
        const { ours, theirs } = parityCase({ args: words, ignoreStderr: true }).runBoth(
          ourFolder,
          theirFolder,
        );
        expect(ours).toEqual(theirs);
        const [left, leftByThem] = folders.map((folder) =>
          run('qemu-img', ['check', '-q', join(folder, 'x.qcow2')]),
        );
        expect(left!.status).toBe(leftByThem!.status);
      });
    }
  }

  it('says which values -r takes, and that raw files have no checks', () => {
    writeFileSync(at('r.raw'), new Uint8Array(65536));
    for (const args of [
      ['check', '-r', 'some', 'plain.qcow2'],
      ['check', '-r', 'all', '-f', 'raw', 'r.raw'],
      ['check', '-r', 'all', 'missing.qcow2'],
    ]) {
      const { ours, theirs } = parityCase({ args }).runBoth(scratch.path, scratch.path);
      expect(ours).toEqual(theirs);
    }
  });

  it('[JRN-BIND-026] snapshots of an image with a journal stay, where qemu-img loses them', () => {
    const image = at('journal.qcow2');
    const made = ['create', '-q', '-f', 'qcow2', '-o', 'journal=on,journal_size=64k', image, '1M'];
    expect(qcow2(made).status).toBe(0);
    expect(qcow2(['snapshot', '-c', 's', image]).status).toBe(0);
    copyFileSync(image, at('journal-theirs.qcow2'));
    expect(qcow2(['check', '-q', '-r', 'all', image]).status).toBe(0);
    must('qemu-img', ['check', '-q', '-r', 'all', at('journal-theirs.qcow2')]);
    expect(must('qemu-img', ['snapshot', '-l', image])).toMatch(/^1 +s /m);
    expect(must('qemu-img', ['snapshot', '-l', at('journal-theirs.qcow2')])).toBe('');
    // Once the journal is gone QEMU keeps them as well.
    expect(qcow2(['journal', 'disable', '-q', image]).status).toBe(0);
    must('qemu-img', ['check', '-q', '-r', 'all', image]);
    expect(must('qemu-img', ['snapshot', '-l', image])).toMatch(/^1 +s /m);
  });
});
