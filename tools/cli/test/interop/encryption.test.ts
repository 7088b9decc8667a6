/**
 * Encrypted images shared with QEMU: its images read and written by us, ours by it, with every cipher that both have; key slots
 * that one of us added and the other opens. And where a secret must not be seen.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { addLuksKey, legacyAes, luksPassphrase, newLuks, removeLuksKey } from '@qcow2/crypto';
import { createImage, type ImageEncryption, openImage, type Qcow2Image } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { launcher, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';
import { runSeed, seededRandom } from '../support/random.ts';

const sizeBytes = 4 * 2 ** 20;
const phrase = 'open sesame';
const secret = ['--object', `secret,id=s,data=${phrase}`];
const bytesOf = (text: string) => new TextEncoder().encode(text);

/** Options of QEMU's, and what the same is for us. */
const ciphers: readonly [string, Partial<Parameters<typeof newLuks>[0]>][] = [
  ['', {}],
  ['encrypt.cipher-alg=aes-192,encrypt.hash-alg=sha512', { cipherBits: 192, hashName: 'sha512' }],
  ['encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv', { cipherMode: 'cbc', ivGenerator: 'essiv' }],
  [
    'encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1',
    { cipherBits: 128, cipherMode: 'cbc', ivGenerator: 'essiv', ivHash: 'sha256', hashName: 'sha1' },
  ],
  ['encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain', { cipherMode: 'cbc', ivGenerator: 'plain' }],
  ['encrypt.cipher-mode=ctr,encrypt.hash-alg=ripemd160', { cipherMode: 'ctr', hashName: 'ripemd160' }],
  ['encrypt.cipher-mode=ecb', { cipherMode: 'ecb' }],
  ['encrypt.ivgen-alg=essiv,cluster_size=512', { ivGenerator: 'essiv' }],
  ['compat=0.10,cluster_size=4k', {}],
  ['extended_l2=off,refcount_bits=1,cluster_size=2M', {}],
];

describeWith(['qemu-img', 'qemu-io'], 'encrypted images shared with QEMU', () => {
  const scratch = scratchFolder();
  const seed = runSeed();
  const inScratch = (name: string): string => join(scratch.path, name);
  afterAll(() => scratch.remove());
  process.stdout.write(`encryption beside QEMU, seed ${seed}\n`);

  it.each(ciphers)(
    '[ENC-003, LUKS-KEY-001, LUKS-KEY-002, LUKS-DATA-004] made by QEMU, written by both: %s',
    async (list) => {
      const image = inScratch('theirs.qcow2');
      const options = ['encrypt.format=luks', 'encrypt.key-secret=s', 'encrypt.iter-time=10', list].filter(
        Boolean,
      );
      must('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        ...secret,
        '-o',
        options.join(','),
        image,
        `${sizeBytes}`,
      ]);
      await writeByTurns(
        image,
        luksPassphrase(bytesOf(phrase)),
        list.includes('compat=0.10') ? 'plain' : 'journal',
      );
      expect(must('qemu-img', ['info', image])).toBe(
        qcow2(['info', image], { programName: 'qemu-img' }).stdout,
      );
    },
  );

  it.each(ciphers)('[FDE-004, LUKS-SLOT-009] made by us, written by both: %s', async (list, choice) => {
    const image = inScratch('ours.qcow2');
    const cluster = /cluster_size=(\w+)/.exec(list)?.[1];
    const clusterBytes = { 512: 512, '4k': 4096, '2M': 2 ** 21 }[cluster ?? ''] ?? 65536;
    const file = openFile(image, { create: 'truncate' });
    await createImage(file, {
      sizeBytes,
      clusterBytes,
      version: list.includes('compat=0.10') ? 2 : 3,
      encryption: newLuks({ passphrase: bytesOf(phrase), iterations: 1000, ...choice }),
    });
    await file.close();
    await writeByTurns(
      image,
      luksPassphrase(bytesOf(phrase)),
      list.includes('compat=0.10') ? 'plain' : 'journal',
    );
    expect(must('qemu-img', ['info', image])).toBe(
      qcow2(['info', image], { programName: 'qemu-img' }).stdout,
    );
  });

  it.each(['compat=1.1', 'compat=0.10,cluster_size=4k'])('[ENC-002] the old encryption: %s', async (list) => {
    const image = inScratch('aes.qcow2');
    const options = `encrypt.format=aes,encrypt.key-secret=s,${list}`;
    must('qemu-img', ['create', '-q', '-f', 'qcow2', ...secret, '-o', options, image, `${sizeBytes}`]);
    await writeByTurns(image, legacyAes(bytesOf(phrase)), list.includes('0.10') ? 'plain' : 'journal');
  });

  it('clusters that a snapshot of QEMU shares are encrypted anew where they are written', async () => {
    for (const [format, encryption] of [
      ['luks', luksPassphrase(bytesOf(phrase))],
      ['aes', legacyAes(bytesOf(phrase))],
    ] as const) {
      const image = inScratch(`snapshot-${format}.qcow2`);
      const time = format === 'luks' ? ',encrypt.iter-time=10' : '';
      const options = `encrypt.format=${format},encrypt.key-secret=s${time}`;
      must('qemu-img', ['create', '-q', '-f', 'qcow2', ...secret, '-o', options, image, `${sizeBytes}`]);
      theirIo(image, ['write -P 0x11 0 1M']);
      must('qemu-img', ['snapshot', ...secret, '--image-opts', '-c', 'before', named(image)]);
      for (const journal of [true, false]) {
        const ours = await open(image, encryption);
        if (journal) await ours.enableJournal();
        for (const at of [512, 70_000, 200_000, 700_000])
          await ours.write(at, new Uint8Array(1000).fill(0x22));
        await ours.flush();
        await ours.write(300_000, new Uint8Array(100).fill(0x22));
        if (journal) await ours.disableJournal();
        await close(ours);
        theirCheck(image);
        theirIo(image, [
          'read -P 0x11 0 512',
          'read -P 0x22 70000 1000',
          'read -P 0x11 71000 100000',
          'read -P 0x22 300000 100',
        ]);
      }
      must('qemu-img', ['snapshot', ...secret, '--image-opts', '-a', 'before', named(image)]);
      theirIo(image, ['read -P 0x11 0 1M']);
    }
  });

  it('[LUKS-KEY-007, LUKS-KEY-008] slots that QEMU added open here, ours there; what one of us erased opens for nobody', async () => {
    const image = inScratch('slots.qcow2');
    const options = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    must('qemu-img', ['create', '-q', '-f', 'qcow2', ...secret, '-o', options, image, '1M']);
    const second = ['--object', 'secret,id=t,data=second'];
    const amend = (list: string) =>
      must('qemu-img', ['amend', ...secret, ...second, '--image-opts', '-o', list, named(image)]);
    amend('encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=6,encrypt.iter-time=10');
    await close(await open(image, luksPassphrase(bytesOf('second'))));
    const third = { passphrase: bytesOf('second'), newPassphrase: bytesOf('third'), iterations: 1000 };
    const ours = await open(image, luksPassphrase(bytesOf(phrase)));
    expect(await ours.changeEncryptionHeader((header) => addLuksKey(header, third))).toBe(1);
    await close(ours);
    theirIo(image, ['read 0 512'], 'third');
    const again = await open(image, luksPassphrase(bytesOf('third')));
    await again.changeEncryptionHeader((header) => removeLuksKey(header, { passphrase: bytesOf('second') }));
    await close(again);
    const refused = run('qemu-io', [
      '--object',
      'secret,id=s,data=second',
      '--image-opts',
      '-c',
      'read 0 512',
      named(image),
    ]);
    expect(refused.stderr).toContain('Invalid password, cannot unlock any keyslot');
    amend('encrypt.state=inactive,encrypt.old-secret=s');
    await expect(open(image, luksPassphrase(bytesOf(phrase)))).rejects.toMatchObject({
      code: 'WRONG_SECRET',
    });
    await close(await open(image, luksPassphrase(bytesOf('third'))));
    expect(qcow2(['check', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  it('amend says and does what qemu-img amend does', () => {
    const both = (...words: string[]) => {
      const theirs = run('qemu-img', ['amend', ...words, named(inScratch('theirs-amended.qcow2'))]);
      const ours = qcow2(['amend', ...words, named(inScratch('amended.qcow2'))], { programName: 'qemu-img' });
      const plain = ({ status, stdout, stderr }: typeof ours) => ({
        status,
        stdout,
        stderr: stderr.trimEnd(),
      });
      expect(plain(ours), words.join(' ')).toEqual(plain(theirs));
    };
    for (const name of ['amended.qcow2', 'theirs-amended.qcow2']) {
      const list = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
      must('qemu-img', ['create', '-q', '-f', 'qcow2', ...secret, '-o', list, inScratch(name), '1M']);
    }
    const objects = [...secret, '--object', 'secret,id=t,data=second', '--image-opts'];
    for (const list of [
      'encrypt.state=active',
      'encrypt.new-secret=t',
      'encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=0',
      'encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=9',
      'encrypt.state=active,encrypt.new-secret=x',
      'encrypt.state=active,encrypt.new-secret=t,encrypt.old-secret=s',
      'encrypt.state=inactive',
      'encrypt.state=inactive,encrypt.keyslot=0',
      'encrypt.state=inactive,encrypt.keyslot=3',
      'encrypt.state=inactive,encrypt.old-secret=t',
      'encrypt.state=inactive,encrypt.old-secret=s',
      'encrypt.state=inactive,encrypt.old-secret=s,encrypt.new-secret=t',
      'encrypt.state=foo',
      'encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10',
      'encrypt.state=inactive,encrypt.old-secret=s',
    ]) {
      both(...objects, '-o', list);
    }
    theirIo(inScratch('amended.qcow2'), ['read 0 512'], 'second');
    const gone = qcow2([
      'amend',
      ...objects,
      '-o',
      'encrypt.state=active,encrypt.new-secret=t',
      named(inScratch('amended.qcow2')),
    ]);
    expect(gone.stderr).toContain('Invalid password, cannot unlock any keyslot');
  });

  it('create makes what qemu-img makes, but for what is random', () => {
    for (const list of [
      '',
      ',encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha512',
    ]) {
      const words = (name: string) => [
        ...['create', '-f', 'qcow2', ...secret, '-o'],
        ...[`encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10${list}`, inScratch(name), '1M'],
      ];
      const theirs = must('qemu-img', words('made.qcow2'));
      const info = must('qemu-img', ['info', inScratch('made.qcow2')]);
      const ours = qcow2(words('made.qcow2'), { programName: 'qemu-img' });
      expect(ours).toEqual({ status: 0, stdout: theirs, stderr: '' });
      const varying = /(uuid|iters|master key iters|disk size): .*/g;
      expect(must('qemu-img', ['info', inScratch('made.qcow2')]).replace(varying, '')).toBe(
        info.replace(varying, ''),
      );
      theirCheck(inScratch('made.qcow2'));
      theirIo(inScratch('made.qcow2'), ['read -P 0 0 1M', 'write -P 3 1k 1k']);
    }
  });

  it('[ENC-006, LUKS-KEY-010] what opens it for serve, and what is said without, shows no secret', async () => {
    const image = inScratch('served.qcow2');
    const key = inScratch('key');
    writeFileSync(key, phrase);
    const made = qcow2([
      ...['create', '-q', '-f', 'qcow2', '--object', `secret,id=s,file=${key}`, '-o'],
      ...['encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,journal=on', image, '1M'],
    ]);
    expect(made).toEqual({ status: 0, stdout: '', stderr: '' });
    const socket = inScratch('sock');
    const bare = qcow2(['serve', '-k', socket, image]);
    expect(bare.stderr).toContain("Parameter 'encrypt.key-secret' is required for cipher");
    const wrong = qcow2([
      'serve',
      '-k',
      socket,
      '--object',
      'secret,id=s,data=hunter2',
      '--image-opts',
      named(image),
    ]);
    expect(wrong.stderr).toContain('Invalid password, cannot unlock any keyslot');
    expect(wrong.stderr).not.toContain('hunter2');
    const server = await startServer(['-t', '-k', socket, ...secret, '--image-opts', named(image)]);
    expect(readFileSync(`/proc/${server.process.pid}/cmdline`, 'latin1')).not.toContain('sesame');
    const script = `import nbd\nh = nbd.NBD()\nh.connect_unix("${socket}")\nh.pwrite(b"plaintext!" * 100, 3000)\nh.flush()\nassert h.pread(10, 3000) == b"plaintext!"`;
    must(python, ['-c', script]);
    server.process.kill('SIGKILL');
    await server.ended;
    const dirty = readFileSync(image);
    expect(dirty.includes('plaintext!')).toBe(false);
    expect(
      JSON.parse(must(launcher, ['info', '--output=json', image]))['format-specific'].data.journal.state,
    ).toBe('dirty');
    expect(qcow2(['check', '-q', image]).status).toBe(0);
    expect(qcow2(['journal', 'replay', image]).stderr).toContain('is required for cipher');
    const replayed = qcow2(['journal', 'replay', ...secret, '--key-secret', 's', image]);
    expect(replayed).toEqual({ status: 0, stdout: `Replayed the journal of '${image}'\n`, stderr: '' });
    theirIo(image, ['read -v 3000 20']);
    const compared = run('qemu-io', [...secret, '--image-opts', '-c', 'read -v 3000 20', named(image)]);
    expect(compared.stdout).toContain('plaintext.plaint');
  });

  it('[ENC-006] a backing file that is encrypted is refused, as QEMU refuses it without its secret', () => {
    const base = inScratch('served.qcow2');
    must('qemu-img', [
      'create',
      '-q',
      '-u',
      '-f',
      'qcow2',
      '-b',
      base,
      '-F',
      'qcow2',
      inScratch('above.qcow2'),
      '1M',
    ]);
    const reason = "Could not open backing file: Parameter 'encrypt.key-secret' is required for cipher";
    const ours = qcow2(['serve', '-k', inScratch('sock'), inScratch('above.qcow2')]);
    expect(ours.stderr).toContain(reason);
    expect(ours.status).toBe(1);
  });

  it('[LUKS-KEY-010] a process that is given a secret by word shows it for as long as it starts', async () => {
    const child = spawn(launcher, [
      'serve',
      '-v',
      '-k',
      inScratch('t.sock'),
      ...secret,
      '--image-opts',
      named(inScratch('served.qcow2')),
    ]);
    try {
      const shown = async () => readFileSync(`/proc/${child.pid}/cmdline`, 'latin1');
      await expect.poll(shown, { timeout: 20_000, interval: 50 }).not.toContain('sesame');
    } finally {
      child.kill('SIGTERM');
      await once(child, 'close');
    }
  });

  const named = (image: string): string => `driver=qcow2,encrypt.key-secret=s,file.filename=${image}`;

  function theirIo(image: string, commands: readonly string[], passphrase = phrase): void {
    const words = [
      '--object',
      `secret,id=s,data=${passphrase}`,
      '--image-opts',
      ...commands.flatMap((one) => ['-c', one]),
    ];
    const { status, stdout, stderr } = run('qemu-io', [...words, named(image)]);
    // A pattern that is not there is said on standard output, and is no failure to qemu-io.
    expect([status, stderr, /verification failed/.test(stdout) ? stdout : '']).toEqual([0, '', '']);
  }

  function theirCheck(image: string): void {
    must('qemu-img', ['check', '-q', ...secret, '--image-opts', named(image)]);
  }

  async function open(image: string, encryption: ImageEncryption): Promise<Qcow2Image> {
    const file = openFile(image);
    try {
      return await openImage(file, { encryption });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  const close = (image: Qcow2Image): Promise<void> => image.close();

  /** Ours with a journal or without, theirs, ours again: each writes, both read it all. */
  async function writeByTurns(
    image: string,
    encryption: ImageEncryption,
    how: 'journal' | 'plain',
  ): Promise<void> {
    const random = seededRandom(seed);
    const truth = new Uint8Array(sizeBytes);
    for (const turn of ['ours', 'theirs', 'ours'] as const) {
      const writes = Array.from({ length: 10 }, () => {
        const at = random.between(0, sizeBytes - 2);
        const length = random.between(1, Math.min(sizeBytes - at, random.pick([600, 5000, 150_000])));
        return { at, length, pattern: random.between(1, 255) };
      });
      for (const { at, length, pattern } of writes) truth.fill(pattern, at, at + length);
      if (turn === 'theirs') {
        theirIo(
          image,
          writes.map(({ at, length, pattern }) => `write -P ${pattern} ${at} ${length}`),
        );
      } else {
        const ours = await open(image, encryption);
        if (how === 'journal') await ours.enableJournal({ sizeBytes: 2 ** 20 });
        for (const [index, { at, length, pattern }] of writes.entries()) {
          await ours.write(at, new Uint8Array(length).fill(pattern));
          if (index % 3 === 0) await ours.flush();
        }
        if (how === 'journal') await ours.disableJournal();
        await close(ours);
      }
      theirCheck(image);
      const ours = await open(image, encryption);
      const seen = new Uint8Array(sizeBytes);
      await ours.read(0, seen);
      await close(ours);
      expect(Buffer.compare(seen, truth), `we read, after ${turn}, seed ${seed}`).toBe(0);
      writeFileSync(inScratch('truth.raw'), truth);
      const raw = `driver=raw,file.filename=${inScratch('truth.raw')}`;
      const compared = run('qemu-img', ['compare', ...secret, '--image-opts', raw, named(image)]);
      expect(compared.stdout, `QEMU reads, after ${turn}, seed ${seed}`).toBe('Images are identical.\n');
    }
  }
});
