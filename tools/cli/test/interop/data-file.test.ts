/** External data files, shared with QEMU: each writes, both read; a raw one is read as what it is as well. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, type Outcome, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type Random, runSeed, seededRandom } from '../support/random.ts';

const sizeBytes = 4 * 2 ** 20;
const clean: Outcome = { status: 0, stdout: '', stderr: '' };

interface Change {
  readonly kind: 'write' | 'zero' | 'unmap' | 'discard';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly pattern: number;
}

describeWith(['qemu-img', 'qemu-io', 'nbdinfo'], 'external data files shared with QEMU', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  const inScratch = (name: string): string => join(scratch.path, name);
  const seed = runSeed();
  afterAll(() => scratch.remove());
  process.stdout.write(`data files beside QEMU, seed ${seed}\n`);

  for (let workload = 0; workload < 12; workload++) {
    const raw = workload % 2 === 0;
    it(`workload ${workload}${raw ? ', raw' : ''}: written by turns, read by both`, async () => {
      const random = seededRandom(seed + workload);
      const hint = `QCOW2_SEED=${seed}, workload ${workload}`;
      const [image, data] = [`w${workload}.qcow2`, `w${workload}.data`];
      const clusterBytes = random.pick([512, 4096, 65536, 2 ** 21]);
      const extended = clusterBytes >= 65536 && random.between(0, 3) > 0 ? ',extended_l2=on' : '';
      const options = `cluster_size=${clusterBytes},data_file=${data},data_file_raw=${raw ? 'on' : 'off'}${extended}`;
      const oursMakes = random.between(0, 1) === 0;
      const journal = oursMakes ? random.pick([',journal=on,journal_size=2M', '']) : '';
      const words = ['create', '-q', '-f', 'qcow2', '-o', `${options}${journal}`, image, String(sizeBytes)];
      expect((oursMakes ? qcow2 : theirs)(words, folder), hint).toEqual(clean);
      const truth = new Uint8Array(sizeBytes);
      for (const turn of random.pick([
        ['ours', 'theirs', 'ours', 'theirs'],
        ['theirs', 'ours', 'theirs', 'ours'],
      ])) {
        const changes = Array.from({ length: 10 }, () => randomChange(random, clusterBytes));
        if (turn === 'ours') await writeOurs(image, data, changes);
        else writeTheirs(image, changes);
        for (const { kind, offset, lengthBytes, pattern } of changes) {
          truth.fill(kind === 'write' ? pattern : 0, offset, offset + lengthBytes);
        }
        const after = `${hint}, after ${turn}`;
        expect(theirs(['check', '-q', image], folder), after).toEqual(clean);
        expect(qcow2(['check', '-q', image], folder), after).toEqual(clean);
        const seen = await readOurs(image, data);
        expect(Buffer.compare(seen, truth), `${after}: we read`).toBe(0);
        writeFileSync(inScratch('truth'), truth);
        const compared = theirs(['compare', '-f', 'raw', '-F', 'qcow2', 'truth', image], folder);
        expect(compared.stdout, `${after}: QEMU reads`).toBe('Images are identical.\n');
        const bytes = readFileSync(inScratch(data));
        if (raw) expect(Buffer.compare(bytes, truth), `${after}: the raw file`).toBe(0);
      }
      for (const name of [image, data]) rmSync(inScratch(name));
    });
  }

  it('[DAT-006] ours is made like theirs: the same words, the same report, every cluster of a raw one mapped', () => {
    for (const raw of ['on', 'off']) {
      const made = (['ours', 'theirs'] as const).map((who) => {
        const options = `data_file=${who}.data,data_file_raw=${raw}`;
        const words = ['create', '-f', 'qcow2', '-o', options, `${who}.qcow2`, '1M'];
        const run = who === 'ours' ? qcow2 : theirs;
        const created = run(words, folder);
        const info = run(['info', `${who}.qcow2`], folder);
        const map = theirs(['map', '--output=json', `${who}.qcow2`], folder);
        expect(readFileSync(inScratch(`${who}.data`)).length).toBe(2 ** 20);
        const text = JSON.stringify([created, info, map]).replaceAll(who, 'image');
        return text.replaceAll(/disk size: \S+ \S+/g, 'disk size');
      });
      expect(made[0]).toBe(made[1]);
    }
  });

  it.each([
    ['data_file_raw=on', []],
    ['data_file=d,data_file_raw=on', ['-b', 'truth', '-F', 'raw']],
    ['data_file=d,compat=0.10', []],
    ['data_file=d,data_file_raw=maybe', []],
  ])('what can not be made is refused in the same words: %s', (options, more) => {
    writeFileSync(inScratch('truth'), new Uint8Array(4096));
    const words = ['create', '-q', '-f', 'qcow2', '-o', options, ...more, 'x.qcow2', '1M'];
    const ours = qcow2(words, folder);
    const words2 = theirs(words, folder).stderr;
    expect(ours.status).toBe(1);
    expect(ours.stderr.replace('qcow2: ', 'qemu-img: ')).toBe(words2);
  });

  it('is made beside the image, and never from a name that is more than a path', () => {
    must('mkdir', ['-p', 'below'], folder);
    const create = (name: string) =>
      qcow2(['create', '-q', '-f', 'qcow2', '-o', `data_file=${name}`, 'below/x.qcow2', '1M'], folder);
    expect(create('x.data')).toEqual(clean);
    expect(existsSync(inScratch('below/x.data'))).toBe(true);
    for (const name of ['nbd:x', 'json:{}', 'file:y']) expect(create(name).status).toBe(1);
    expect(create('x.qcow2').stderr).toContain('the image itself');
  });

  it('[DAT-007] grows with the disk', () => {
    const made = ['create', '-q', '-f', 'qcow2', '-o', 'data_file=g.data,data_file_raw=on', 'g.qcow2', '1M'];
    expect(qcow2(made, folder)).toEqual(clean);
    expect(qcow2(['resize', '-q', 'g.qcow2', '+1M'], folder)).toEqual(clean);
    expect(readFileSync(inScratch('g.data')).length).toBe(2 * 2 ** 20);
    expect(qcow2(['resize', '-q', '--untrusted', 'g.qcow2', '+1M'], folder).stderr).toContain('not trusted');
    must('qemu-io', ['-c', 'write -P 3 1900k 64k', 'g.qcow2'], folder);
    expect(theirs(['check', '-q', 'g.qcow2'], folder)).toEqual(clean);
  });

  it.each(['off', 'on'])('[DAT-009] shrinks with the disk, data_file_raw=%s, as with qemu-img', (raw) => {
    const files = ['ours', 'theirs'].map((name) => {
      const image = `cut-${name}-${raw}.qcow2`;
      const data = `cut-${name}-${raw}.data`;
      must(
        'qemu-img',
        ['create', '-q', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw=${raw}`, image, '4M'],
        folder,
      );
      must('qemu-io', ['-c', 'write -P 7 0 4M', image], folder);
      return { image, data };
    });
    const [ours, theirs2] = files as [(typeof files)[0], (typeof files)[0]];
    for (const size of ['1048064', '3M']) {
      const shrink = size === '3M' ? [] : ['--shrink'];
      expect(qcow2(['resize', '-q', ...shrink, ours.image, size], folder)).toEqual(clean);
      expect(theirs(['resize', '-q', ...shrink, theirs2.image, size], folder)).toEqual(clean);
      expect(readFileSync(inScratch(ours.data)).equals(readFileSync(inScratch(theirs2.data)))).toBe(true);
      expect(theirs(['check', '-q', ours.image], folder)).toEqual(clean);
      expect(theirs(['compare', ours.image, theirs2.image], folder).stdout).toBe('Images are identical.\n');
    }
  });

  it('is served', async () => {
    const made = ['create', '-q', '-f', 'qcow2', '-o', 'data_file=s.data,data_file_raw=on,journal=on'];
    expect(qcow2([...made, inScratch('s.qcow2'), '1M'], folder)).toEqual(clean);
    const socket = inScratch('sock');
    const server = await startServer(['-t', '-k', socket, inScratch('s.qcow2')]);
    const uri = `nbd+unix:///?socket=${socket}`;
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 7 300k 5k', '-c', 'flush', uri]);
    expect(readFileSync(inScratch('s.data')).subarray(300 * 1024, 305 * 1024)).toEqual(
      Buffer.alloc(5 * 1024, 7),
    );
    expect(await server.end('SIGTERM')).toBe(0);
    must('qemu-io', ['-r', '-c', 'read -P 7 300k 5k', 's.qcow2'], folder);
  });

  function theirs(words: readonly string[], options = folder): Outcome {
    return run('qemu-img', words, options);
  }

  async function writeOurs(image: string, data: string, changes: readonly Change[]): Promise<void> {
    const opened = await openImage(openFile(inScratch(image)), { dataFile: openFile(inScratch(data)) });
    for (const [index, { kind, offset, lengthBytes, pattern }] of changes.entries()) {
      if (kind === 'write') await opened.write(offset, new Uint8Array(lengthBytes).fill(pattern));
      else if (kind === 'discard') await opened.discard(offset, lengthBytes);
      else await opened.writeZeroes(offset, lengthBytes, { mayUnmap: kind === 'unmap' });
      if (index % 4 === 0) await opened.flush();
    }
    await opened.close();
  }

  function writeTheirs(image: string, changes: readonly Change[]): void {
    const how = { write: 'write -P', zero: 'write -z', unmap: 'write -z -u', discard: 'discard' };
    const commands = changes.flatMap(({ kind, offset, lengthBytes, pattern }) => {
      const what = kind === 'write' ? `${how.write} ${pattern}` : how[kind];
      return ['-c', `${what} ${offset} ${lengthBytes}`];
    });
    must('qemu-io', ['-d', 'unmap', ...commands, image], folder);
  }

  async function readOurs(image: string, data: string): Promise<Uint8Array> {
    const dataFile = openFile(inScratch(data), { readOnly: true });
    const file = openFile(inScratch(image), { readOnly: true });
    expect(await checkImage(file)).toMatchObject({ corruptions: 0, leaks: 0 });
    const opened = await openImage(file, { dataFile, readOnly: true });
    const bytes = new Uint8Array(opened.sizeBytes);
    await opened.read(0, bytes);
    await opened.close();
    return bytes;
  }
});

/** Discards are of whole clusters: what a part of one shows afterwards is left open. */
function randomChange(random: Random, clusterBytes: number): Change {
  const kind = random.pick<Change['kind']>(['write', 'write', 'write', 'zero', 'unmap', 'discard']);
  const unit = kind === 'discard' ? clusterBytes : 512;
  const most = random.pick([4096, 65536, 500_000]);
  const lengthBytes = unit * random.between(1, Math.max(1, Math.floor(most / unit)));
  const offset = unit * random.between(0, Math.floor((sizeBytes - lengthBytes) / unit));
  return { kind, offset, lengthBytes, pattern: random.between(1, 255) };
}
