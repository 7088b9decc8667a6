/**
 * We and QEMU on the same images: each writes, both read. And the journal's promises to programs that do not know
 * it: refused by name while it is needed, an ordinary image when it is not, and nothing lost when they have
 * taken its space.
 */
import { closeSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { openImage, probeImage, type Qcow2Image } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { launcher, must, type Outcome, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type Random, runSeed, seededRandom } from '../support/random.ts';

const workloads = 20;
const sizeBytes = 8 * 2 ** 20;
const clean: Outcome = { status: 0, stdout: '', stderr: '' };

interface Change {
  readonly kind: 'write' | 'zero' | 'discard';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly pattern: number;
}

describeWith(['qemu-img', 'qemu-io'], 'images shared with QEMU', () => {
  const scratch = scratchFolder();
  const seed = runSeed();
  const inScratch = (name: string): string => join(scratch.path, name);
  afterAll(() => scratch.remove());
  process.stdout.write(`agreement with QEMU, seed ${seed}\n`);

  for (let workload = 0; workload < workloads; workload++) {
    it(`workload ${workload}: written by turns, read by both`, async () => {
      const random = seededRandom(seed + workload);
      const image = inScratch(`w${workload}.qcow2`);
      const truth = new Uint8Array(sizeBytes);
      const clusterBytes = await makeImage(image, workload, random, truth);
      const hint = `QCOW2_SEED=${seed}, workload ${workload}`;
      for (const turn of random.pick([
        ['ours', 'theirs', 'ours'],
        ['theirs', 'ours', 'theirs'],
      ])) {
        const changes = Array.from({ length: 12 }, () => randomChange(random, clusterBytes));
        if (turn === 'ours') await writeOurs(image, changes);
        else writeTheirs(image, changes);
        for (const change of changes) applyChange(truth, change);
        expect(run('qemu-img', ['check', '-q', image]), `${hint}: qemu-img check after ${turn}`).toEqual(
          clean,
        );
        expect(qcow2(['check', '-q', image]), `${hint}: our check after ${turn}`).toEqual(clean);
        expect(firstDifference(await readOurs(image), truth), `${hint}: we read, after ${turn}`).toBe(
          undefined,
        );
        writeFileSync(inScratch('truth.raw'), truth);
        const compared = run('qemu-img', [
          'compare',
          '-f',
          'raw',
          '-F',
          'qcow2',
          inScratch('truth.raw'),
          image,
        ]);
        expect(compared.stdout, `${hint}: qemu-img reads, after ${turn}`).toBe('Images are identical.\n');
        readPatterns(image, truth, random);
      }
      rmSync(image);
    });
  }

  it('[JRN-BIND-015] a clean journalled image passes qemu-img check, and qemu-img calls it clean', async () => {
    const image = inScratch('clean.qcow2');
    makeJournalled(image);
    await writeOurs(image, [{ kind: 'write', offset: 70_000, lengthBytes: 300_000, pattern: 7 }]);
    expect(journalOf(image).state).toBe('clean');
    expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    expect(JSON.parse(must('qemu-img', ['info', '--output=json', image]))['dirty-flag']).toBe(false);
  });

  it('[FEA-007, JRN-BIND-012, JRN-BIND-014] QEMU refuses a dirty image by name, and writes to it once replayed', async () => {
    const image = inScratch('dirty.qcow2');
    makeJournalled(image);
    await crashAfterFlush(image);
    for (const args of [['info'], ['check'], ['convert', '-O', 'raw']]) {
      const refused = run('qemu-img', [
        ...args,
        image,
        ...(args[0] === 'convert' ? [inScratch('out.raw')] : []),
      ]);
      expect(refused.status).toBe(1);
      expect(refused.stderr).toContain('Unsupported qcow2 feature(s): journal dirty');
    }
    expect(qcow2(['journal', 'replay', image]).stdout).toContain('Replayed');
    expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    must('qemu-io', ['-c', 'read -P 0x55 1M 64k', '-c', 'write -P 0x66 5M 64k', image]);
    expect((await readOurs(image)).subarray(5 * 2 ** 20, 5 * 2 ** 20 + 65536)).toEqual(
      new Uint8Array(65536).fill(0x66),
    );
  });

  it('[JRN-RO-001, JRN-RO-002] info, check and a read-only opening of a dirty image see it recovered and write nothing', async () => {
    const image = inScratch('read-only.qcow2');
    makeJournalled(image);
    await crashAfterFlush(image);
    const before = readFileSync(image);
    expect(journalOf(image).state).toBe('dirty');
    expect(qcow2(['check', '-q', image])).toEqual(clean);
    expect((await readOurs(image)).subarray(2 ** 20, 2 ** 20 + 65536)).toEqual(
      new Uint8Array(65536).fill(0x55),
    );
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it('[FEA-013, JRN-BIND-013, JRN-BIND-017] after QEMU has written, reopening makes a new journal and leaves the old range alone', async () => {
    const image = inScratch('taken.qcow2');
    const old = await journalTakenByQemu(image);
    expect(journalOf(image).state).toBe('stale');
    await expectNewJournal(image, old);
  });

  it('[JRN-BIND-016] the same where a tool has taken clusters of the range and left the autoclear bits alone', async () => {
    const image = inScratch('autoclear.qcow2');
    const old = await journalTakenByQemu(image);
    const autoclearAt = 88;
    editByte(image, autoclearAt, (byte) => byte | 0x80);
    expect(journalOf(image)).not.toHaveProperty('state', 'stale');
    await expectNewJournal(image, old);
  });

  it('[JRN-BIND-019] an image of version 2 gets no journal', () => {
    const image = inScratch('v2.qcow2');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', image, '1M']);
    const before = readFileSync(image);
    expect(qcow2(['journal', 'enable', image]).status).toBe(1);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  async function makeImage(
    image: string,
    workload: number,
    random: Random,
    truth: Uint8Array,
  ): Promise<number> {
    const clusterBytes = random.pick([512, 4096, 65536, 65536, 2 ** 21]);
    const refcountBits = random.pick([1, 8, 16, 16, 64]);
    const options = `cluster_size=${clusterBytes},refcount_bits=${refcountBits}`;
    const base = inScratch(`base${workload}.qcow2`);
    const overlay = random.between(0, 2) === 0;
    if (overlay) {
      must('qemu-img', ['create', '-q', '-f', 'qcow2', base, String(sizeBytes / 2)]);
      must('qemu-io', ['-c', 'write -P 0x11 100k 3M', base]);
      truth.fill(0x11, 100 * 1024, 100 * 1024 + 3 * 2 ** 20);
    }
    const backing = overlay ? ['-b', base, '-F', 'qcow2'] : [];
    if (random.between(0, 1) === 0) {
      must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, ...backing, image, String(sizeBytes)]);
    } else {
      const journal = random.pick([',journal=on', ',journal=on,journal_size=2M,journal_block_size=512', '']);
      const made = [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-o',
        `${options}${journal}`,
        ...backing,
        image,
        String(sizeBytes),
      ];
      expect(qcow2(made)).toEqual(clean);
    }
    return overlay ? 0 : clusterBytes;
  }
});

/** @param clusterBytes 0: discards are left out, because what they show depends on the backing file */
function randomChange(random: Random, clusterBytes: number): Change {
  const kinds =
    clusterBytes === 0
      ? (['write', 'write', 'zero'] as const)
      : (['write', 'write', 'zero', 'discard'] as const);
  const kind = random.pick<Change['kind']>(kinds);
  const unit = kind === 'discard' ? Math.max(clusterBytes, 512) : 512;
  const lengthBytes =
    unit * random.between(1, Math.max(1, Math.floor(random.pick([4096, 65536, 500_000]) / unit)));
  const offset = unit * random.between(0, Math.floor((sizeBytes - lengthBytes) / unit));
  return { kind, offset, lengthBytes, pattern: random.between(1, 255) };
}

function applyChange(truth: Uint8Array, change: Change): void {
  truth.fill(change.kind === 'write' ? change.pattern : 0, change.offset, change.offset + change.lengthBytes);
}

/** Open an image of ours, with the backing file that its name leads to. */
async function openOurs(image: string, readOnly: boolean): Promise<Qcow2Image> {
  const probe = await probeImage(openFile(image, { readOnly: true }));
  const { backingFileName } = probe.header;
  await probe.close();
  const backing =
    backingFileName === undefined
      ? 'none'
      : await openImage(openFile(backingFileName, { readOnly: true }), { readOnly: true });
  return await openImage(openFile(image, { readOnly }), { readOnly, backing });
}

async function writeOurs(image: string, changes: readonly Change[]): Promise<void> {
  const opened = await openOurs(image, false);
  for (const [index, { kind, offset, lengthBytes, pattern }] of changes.entries()) {
    if (kind === 'write') await opened.write(offset, new Uint8Array(lengthBytes).fill(pattern));
    else if (kind === 'zero') await opened.writeZeroes(offset, lengthBytes, { mayUnmap: index % 2 === 0 });
    else await opened.discard(offset, lengthBytes);
    if (index % 4 === 0) await opened.flush();
  }
  await opened.close();
}

function writeTheirs(image: string, changes: readonly Change[]): void {
  const commands = changes.flatMap(({ kind, offset, lengthBytes, pattern }) => {
    const how = { write: `write -P ${pattern}`, zero: 'write -z', discard: 'discard' }[kind];
    return ['-c', `${how} ${offset} ${lengthBytes}`];
  });
  must('qemu-io', ['-d', 'unmap', ...commands, image]);
}

async function readOurs(image: string): Promise<Uint8Array> {
  const opened = await openOurs(image, true);
  const bytes = new Uint8Array(opened.sizeBytes);
  await opened.read(0, bytes);
  await opened.close();
  return bytes;
}

/** qemu-io compares what it reads with a pattern: some sectors that hold one. */
function readPatterns(image: string, truth: Uint8Array, random: Random): void {
  const commands: string[] = [];
  for (let attempt = 0; attempt < 16; attempt++) {
    const offset = 512 * random.between(0, sizeBytes / 512 - 1);
    const sector = truth.subarray(offset, offset + 512);
    if (sector.every((byte) => byte === sector[0])) commands.push('-c', `read -P ${sector[0]} ${offset} 512`);
  }
  const outcome = run('qemu-io', ['-r', ...commands, image]);
  expect(outcome.stdout + outcome.stderr).not.toContain('failed');
  expect(outcome.status).toBe(0);
}

function firstDifference(actual: Uint8Array, expected: Uint8Array): string | undefined {
  if (Buffer.compare(actual, expected) === 0) return undefined;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  return `byte ${at} is ${actual[at]}, not ${expected[at]}`;
}

function makeJournalled(image: string): void {
  expect(
    qcow2(['create', '-q', '-f', 'qcow2', '-o', 'journal=on,journal_size=4M', image, String(sizeBytes)]),
  ).toEqual(clean);
}

/** What a power cut leaves: 64 KiB of 0x55 at 1 MiB were flushed, nothing was closed. */
async function crashAfterFlush(image: string): Promise<void> {
  const device = openFile(image);
  const opened = await openImage(device);
  await opened.write(2 ** 20, new Uint8Array(65536).fill(0x55));
  await opened.flush();
  opened.abandon();
  await device.close();
}

interface JournalReport {
  readonly state: string;
  readonly 'host-offset': number;
  readonly size: number;
}

function journalOf(image: string): JournalReport {
  return JSON.parse(must(launcher, ['info', '--output=json', image]))['format-specific'].data.journal;
}

/** A journalled image whose journal's clusters QEMU has given to the guest. @returns where the journal was */
async function journalTakenByQemu(image: string): Promise<JournalReport> {
  makeJournalled(image);
  await writeOurs(image, [{ kind: 'write', offset: 0, lengthBytes: 200_000, pattern: 1 }]);
  const old = journalOf(image);
  const before = rangeOf(image, old);
  // In pieces that fit into the gap that the journal's clusters, with refcount 0, are to QEMU.
  const pieces = [1, 2, 3, 4, 5, 6].flatMap((at) => ['-c', `write -P 2 ${at}M 1M`]);
  must('qemu-io', [...pieces, image]);
  expect(rangeOf(image, old).equals(before), 'QEMU has written into the old range').toBe(false);
  return old;
}

async function expectNewJournal(image: string, old: JournalReport): Promise<void> {
  const before = rangeOf(image, old);
  const opened = await openImage(openFile(image));
  await opened.close();
  expect(rangeOf(image, old).equals(before)).toBe(true);
  const made = journalOf(image);
  expect(made.state).toBe('clean');
  const apart =
    made['host-offset'] >= old['host-offset'] + old.size ||
    made['host-offset'] + made.size <= old['host-offset'];
  expect(apart).toBe(true);
  // And it serves: writes, a crash, recovery, with what QEMU wrote in its place.
  await crashAfterFlush(image);
  expect(qcow2(['journal', 'replay', '-q', image])).toEqual(clean);
  expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
  const reads = ['read -P 1 0 200000', 'read -P 0x55 1M 64k', 'read -P 2 1114112 6225920', 'read -P 0 7M 1M'];
  const outcome = run('qemu-io', ['-r', ...reads.flatMap((read) => ['-c', read]), image]);
  expect(outcome.stdout).not.toContain('failed');
  expect(outcome.status).toBe(0);
}

function rangeOf(image: string, journal: JournalReport): Buffer {
  const bytes = Buffer.alloc(journal.size);
  const file = openSync(image, 'r');
  readSync(file, bytes, 0, bytes.length, journal['host-offset']);
  closeSync(file);
  return bytes;
}

function editByte(image: string, at: number, edit: (byte: number) => number): void {
  const file = openSync(image, 'r+');
  const byte = new Uint8Array(1);
  readSync(file, byte, 0, 1, at);
  writeSync(file, Uint8Array.of(edit(byte[0] ?? 0)), 0, 1, at);
  closeSync(file);
}
