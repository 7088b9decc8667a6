/**
 * Snapshots and sizes by turns with QEMU, on the same images: each makes, applies and deletes snapshots, writes, and
 * gives the disk another size, and after every step qemu-img finds neither error nor leak, and both show the disk and
 * every snapshot as a plain buffer has them.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockDevice } from '@qcow2/block-device';
import { openImage, type Qcow2Image } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type Random, runSeed, seededRandom } from '../support/random.ts';

interface Setup {
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly compat: '0.10' | '1.1';
  readonly backed: boolean;
  readonly journal: boolean;
}

const setups: Setup[] = [
  { clusterBytes: 512, refcountBits: 16, compat: '1.1', backed: false, journal: false },
  { clusterBytes: 512, refcountBits: 64, compat: '1.1', backed: true, journal: true },
  { clusterBytes: 4096, refcountBits: 8, compat: '1.1', backed: true, journal: false },
  { clusterBytes: 4096, refcountBits: 2, compat: '1.1', backed: false, journal: true },
  { clusterBytes: 65536, refcountBits: 4, compat: '1.1', backed: true, journal: true },
  { clusterBytes: 65536, refcountBits: 16, compat: '0.10', backed: true, journal: false },
  { clusterBytes: 65536, refcountBits: 1, compat: '1.1', backed: false, journal: false },
  { clusterBytes: 2 ** 21, refcountBits: 32, compat: '1.1', backed: false, journal: true },
];

const diskBytes = 2 ** 20;
/** Every file and table of the largest clusters is megabytes, and everything is compared after each step. */
const stepsOf = ({ clusterBytes }: Setup): number => (clusterBytes > 65536 ? 6 : 14);

interface Kept {
  readonly name: string;
  readonly content: Uint8Array;
}

class Scene {
  readonly #setup: Setup;
  readonly #random: Random;
  readonly #image: string;
  readonly #base: string;
  readonly #raw: string;
  readonly #baseBytes: Uint8Array;
  #disk: Uint8Array;
  #kept: Kept[] = [];
  #made = 0;

  constructor(folder: string, index: number, setup: Setup, random: Random) {
    this.#setup = setup;
    this.#random = random;
    this.#image = join(folder, `${index}.qcow2`);
    this.#base = join(folder, `${index}.base`);
    this.#raw = join(folder, `${index}.raw`);
    this.#baseBytes = new Uint8Array(setup.backed ? diskBytes - 4096 : 0).fill(0xba);
    this.#disk = new Uint8Array(diskBytes);
    this.#disk.set(this.#baseBytes);
  }

  async make(): Promise<void> {
    const { clusterBytes, refcountBits, compat, backed, journal } = this.#setup;
    const options = [
      `cluster_size=${clusterBytes}`,
      `compat=${compat}`,
      ...(compat === '1.1' ? [`refcount_bits=${refcountBits}`] : []),
    ];
    if (backed) writeFileSync(this.#base, this.#baseBytes);
    const below = backed ? ['-b', this.#base, '-F', 'raw'] : [];
    must('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      options.join(),
      ...below,
      this.#image,
      `${diskBytes}`,
    ]);
    if (journal) await this.#ours((image) => image.enableJournal({ sizeBytes: 2 ** 20 }));
  }

  /** One step by one of the two, chosen by chance. Returns what was done. */
  async step(): Promise<string> {
    const ours = this.#random.between(0, 1) === 0;
    const doings = ['write', 'write', 'write', 'create', 'create', 'apply', 'delete', 'resize'] as const;
    const doing = this.#random.pick(doings);
    const told = `${ours ? 'we' : 'they'} ${doing}`;
    if (doing === 'write') await this.#write(ours);
    else if (doing === 'create') await this.#create(ours);
    else if (doing === 'resize') await this.#resize(ours);
    else if (this.#kept.length > 0) await this.#change(ours, doing, this.#random.pick(this.#kept));
    return told;
  }

  async verify(told: string): Promise<void> {
    const checked = run('qemu-img', ['check', '-q', this.#image]);
    expect(checked, `qemu-img check after ${told}`).toEqual({ status: 0, stdout: '', stderr: '' });
    this.#expectTheirs([], this.#disk, `${told}: the disk, as they show it`);
    for (const { name, content } of this.#kept) {
      this.#expectTheirs(['-l', `snapshot.name=${name}`], content, `${told}: ${name}, as they show it`);
    }
    await this.#ours(async (image) => {
      expect(await contentOf(image), `${told}: the disk, as we show it`).toEqual(bytesOf(this.#disk));
      expect(image.snapshots.map(({ name }) => name)).toEqual(this.#kept.map(({ name }) => name));
      for (const { name, content } of this.#kept) {
        const device = await image.openSnapshot({ name });
        expect(await contentOf(device), `${told}: ${name}, as we show it`).toEqual(bytesOf(content));
      }
    });
  }

  async deleteAll(): Promise<void> {
    while (this.#kept.length > 0) {
      const one = this.#kept[0]!;
      await this.#change(this.#kept.length % 2 === 0, 'delete', one);
      await this.verify(`the deletion of ${one.name}`);
    }
  }

  async #write(ours: boolean): Promise<void> {
    const below = (limit: number): number => this.#random.between(0, limit - 1);
    const offset = below(this.#disk.length / 512) * 512;
    const lengthBytes = Math.min(this.#disk.length - offset, 512 * (1 + below(300)));
    const pattern = 1 + below(200);
    this.#disk.fill(pattern, offset, offset + lengthBytes);
    if (ours) {
      await this.#ours((image) =>
        Promise.resolve(image.write(offset, new Uint8Array(lengthBytes).fill(pattern))),
      );
    } else must('qemu-io', ['-c', `write -P ${pattern} ${offset} ${lengthBytes}`, this.#image]);
  }

  async #create(ours: boolean): Promise<void> {
    const name = `n${this.#made++}`;
    if (this.#kept.length + 2 > 2 ** this.#setup.refcountBits - 1) {
      // Refused where a refcount would have no room; whether one would depends on what is shared.
      const done = await this.#ours((image) =>
        image.createSnapshot({ name }).then(
          () => true,
          (error) => expectFull(error),
        ),
      );
      if (done) this.#kept.push({ name, content: this.#disk.slice() });
      return;
    }
    if (ours) await this.#ours((image) => image.createSnapshot({ name }));
    else must('qemu-img', ['snapshot', '-c', name, this.#image]);
    this.#kept.push({ name, content: this.#disk.slice() });
  }

  async #change(ours: boolean, doing: 'apply' | 'delete', one: Kept): Promise<void> {
    const fits = this.#kept.length + 2 <= 2 ** this.#setup.refcountBits - 1;
    if (doing === 'apply') {
      if (!fits) {
        const done = await this.#ours((image) =>
          image.applySnapshot({ name: one.name }).then(
            () => true,
            (error) => expectFull(error),
          ),
        );
        if (done) this.#disk = one.content.slice();
        return;
      }
      this.#disk = one.content.slice();
      if (ours) await this.#ours((image) => image.applySnapshot({ name: one.name }));
      else must('qemu-img', ['snapshot', '-a', one.name, this.#image]);
      return;
    }
    this.#kept = this.#kept.filter((other) => other !== one);
    if (ours) await this.#ours((image) => image.deleteSnapshot({ name: one.name }));
    else must('qemu-img', ['snapshot', '-d', one.name, this.#image]);
  }

  async #resize(ours: boolean): Promise<void> {
    if (this.#setup.compat === '0.10' && this.#kept.length > 0) return;
    // Whole clusters, and not below the backing file's end: QEMU shows what a smaller disk hid when it grows again.
    const unit = Math.max(this.#setup.clusterBytes, 65536);
    const sizeBytes = this.#random.between(8, 31) * unit;
    const resized = new Uint8Array(sizeBytes);
    const kept = this.#disk.subarray(0, sizeBytes);
    resized.set(kept);
    // QEMU can not hide what a longer backing file has from a version 2 disk.
    if (sizeBytes < this.#disk.length || ours || this.#setup.compat === '0.10') {
      await this.#ours((image) => Promise.resolve(image.resize(sizeBytes, { shrink: true })));
    } else must('qemu-img', ['resize', '-q', this.#image, `${sizeBytes}`]);
    this.#disk = resized;
  }

  /** qemu-img shows a snapshot in the size that the disk has now. */
  #expectTheirs(options: readonly string[], wanted: Uint8Array, hint: string): void {
    rmSync(this.#raw, { force: true });
    must('qemu-img', ['convert', '-O', 'raw', ...options, this.#image, this.#raw]);
    const shown = readFileSync(this.#raw);
    expect(shown.length, hint).toBe(this.#disk.length);
    const common = Math.min(shown.length, wanted.length);
    expect(bytesOf(shown.subarray(0, common)), hint).toEqual(bytesOf(wanted.subarray(0, common)));
  }

  async #ours<T>(action: (image: Qcow2Image) => Promise<T>): Promise<T> {
    const backing = this.#setup.backed ? openFile(this.#base, { readOnly: true }) : 'none';
    const image = await openImage(openFile(this.#image), { backing });
    try {
      return await action(image);
    } finally {
      await image.close();
    }
  }
}

function expectFull(error: unknown): false {
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', context: { clause: 'SNP-025' } });
  return false;
}

async function contentOf(device: BlockDevice): Promise<string> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytesOf(bytes);
}

/** Runs of equal bytes: short enough to be shown, and quick to compare. */
function bytesOf(bytes: Uint8Array): string {
  const runs: string[] = [];
  for (let from = 0, at = 1; from < bytes.length; at++) {
    if (at < bytes.length && bytes[at] === bytes[from]) continue;
    runs.push(`${bytes[from]}x${at - from}`);
    from = at;
  }
  return runs.join(' ');
}

describeWith(['qemu-img', 'qemu-io'], 'snapshots by turns with QEMU', () => {
  const scratch = scratchFolder();
  const seed = runSeed();
  afterAll(() => scratch.remove());
  process.stdout.write(`snapshots by turns with QEMU, seed ${seed}\n`);

  for (const [index, setup] of setups.entries()) {
    const { clusterBytes, refcountBits, compat, backed, journal } = setup;
    const how = `${backed ? ', over backing' : ''}${journal ? ', journal' : ''}`;
    it(`clusters of ${clusterBytes}, ${refcountBits} bits, compat ${compat}${how}`, async () => {
      const scene = new Scene(scratch.path, index, setup, seededRandom(seed + index));
      await scene.make();
      const story: string[] = [];
      for (let i = 0; i < stepsOf(setup); i++) {
        story.push(await scene.step());
        await scene.verify(`QCOW2_SEED=${seed}: ${story.join(', ')}`);
      }
      await scene.deleteAll();
    });
  }

  it('[SNP-017, SNP-022] VM state and extra data that nobody knows stay with their snapshot', async () => {
    const image = join(scratch.path, 'state.qcow2');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
    must('qemu-io', ['-c', 'write -P 1 0 64k', image]);
    must('qemu-img', ['snapshot', '-c', 'state', image]);
    const table = (): { offset: number; bytes: Buffer } => {
      const bytes = Buffer.concat([readFileSync(image), Buffer.alloc(512)]);
      return { offset: Number(bytes.readBigUInt64BE(64)), bytes };
    };
    // 32 bytes of extra data, of which 8 are of the future; and a VM state of 5 bytes.
    const { offset, bytes } = table();
    const tail = Buffer.from(bytes.subarray(offset + 64, offset + 256));
    bytes.writeUInt32BE(32, offset + 36);
    bytes.writeUInt32BE(5, offset + 32);
    bytes.writeBigUInt64BE(5n, offset + 40);
    bytes.writeBigUInt64BE(0x66757475726521n, offset + 64);
    tail.copy(bytes, offset + 72);
    writeFileSync(image, bytes);
    const opened = await openImage(openFile(image));
    await opened.createSnapshot({ name: 'other' });
    await opened.deleteSnapshot('other');
    expect(opened.snapshots).toMatchObject([{ name: 'state', vmStateLengthBytes: 5 }]);
    await opened.close();
    const after = table();
    expect(after.offset).not.toBe(offset);
    expect(after.bytes.readUInt32BE(after.offset + 36)).toBe(32);
    expect(after.bytes.readBigUInt64BE(after.offset + 64)).toBe(0x66757475726521n);
    expect(run('qemu-img', ['check', '-q', image]).status).toBe(0);
    expect(must('qemu-img', ['snapshot', '-l', image])).toMatch(/^1 +state +5 B/m);
  });
});
