/**
 * Images named by options, encrypted ones, and ones whose backing files are encrypted, in every command beside the real qemu-img:
 * the same arguments in two folders, text and exit code compared. And what is written over encrypted backing files, read by QEMU.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';

const secrets = ['--object', 'secret,id=base,data=open', '--object', 'secret,id=top,data=sesame'];
const luks = (id: string) => `encrypt.format=luks,encrypt.key-secret=${id},encrypt.iter-time=10`;
const baseOptions = 'driver=qcow2,encrypt.key-secret=base,file.filename=luks.qcow2';
const overOptions = 'driver=qcow2,file.filename=over.qcow2,backing.encrypt.key-secret=base';
const jsonOver = 'json:{"file.filename":"over.qcow2","backing":{"encrypt":{"key-secret":"base"}}}';

/** Each command on an image, by what names it. */
const commands: readonly ((...image: string[]) => string[])[] = [
  (...image) => ['snapshot', '-c', 'one', ...image],
  (...image) => ['snapshot', '-c', 'two', ...image],
  (...image) => ['snapshot', '-a', 'two', ...image],
  (...image) => ['snapshot', '-d', 'two', ...image],
  (...image) => ['snapshot', '-d', 'one', ...image],
  (...image) => ['snapshot', '-d', 'none', ...image],
  (...image) => ['check', '-r', 'all', ...image],
  (...image) => ['check', ...image],
  (...image) => ['resize', ...image, '+1M'],
  (...image) => ['resize', '--shrink', ...image, '1M'],
  (...image) => ['bitmap', '--add', ...image, 'bits'],
  (...image) => ['bitmap', '--disable', '--clear', ...image, 'bits'],
  (...image) => ['bitmap', '--remove', ...image, 'bits'],
];

const refusals: readonly (readonly string[])[] = [
  ['luks.qcow2'],
  ['over.qcow2'],
  ['--image-opts', 'file.filename=over.qcow2'],
  ['--image-opts', 'file.filename=luks.qcow2'],
  ['--image-opts', 'file.filename=missing.qcow2,encrypt.key-secret=base'],
  ['--image-opts', 'file.filename=luks.qcow2,encrypt.key-secret=none'],
  ['--image-opts', 'file.filename=luks.qcow2,encrypt.key-secret=top'],
  ['--image-opts', 'file.filename=over.qcow2,backing.encrypt.key-secret=top'],
  ['--image-opts', 'file.filename=over.qcow2,backing.encrypt.key-secret=none'],
  ['--image-opts', 'file.filename=over.qcow2,backing.file.filename=missing.qcow2'],
  ['--image-opts', 'driver=qcow2'],
  ['--image-opts', 'driver=nonsense,file.filename=luks.qcow2'],
  ['--image-opts', 'luks.qcow2'],
  ['--image-opts', `${overOptions},bogus=1`],
  ['json:3'],
  ['json:{"file":"over.qcow2"}'],
  ['json:{"driver":"qcow2"}'],
  ['json:{"file.filename":"missing.qcow2"}'],
  ['json:{"file.filename":"over.qcow2","backing":{"encrypt.key-secret":"top"}}'],
  ['json:{"file.filename":"over.qcow2","backing":"none"}'],
];

describeWith(['qemu-img', 'qemu-io'], 'images named by options, beside qemu-img', () => {
  const scratch = scratchFolder();
  const [ours, theirs] = ['ours', 'theirs'].map((name) => join(scratch.path, name)) as [string, string];
  const io = (folder: string, list: string, ...asked: string[]): string =>
    must('qemu-io', [...secrets, '--image-opts', ...asked.flatMap((one) => ['-c', one]), list], {
      cwd: folder,
    });

  beforeAll(() => {
    mkdirSync(ours);
    const inOurs = { cwd: ours };
    const create = (...words: string[]) =>
      must('qemu-img', ['create', '-q', '-f', 'qcow2', ...secrets, ...words], inOurs);
    create('-o', luks('base'), 'luks.qcow2', '1M');
    create('-o', 'encrypt.format=aes,encrypt.key-secret=base', 'aes.qcow2', '1M');
    io(ours, baseOptions, 'write -P 0x11 0 1M');
    io(ours, 'driver=qcow2,encrypt.key-secret=base,file.filename=aes.qcow2', 'write -P 0x22 0 1M');
    create('-u', '-b', 'luks.qcow2', '-F', 'qcow2', 'over.qcow2', '1M');
    create('-u', '-b', 'aes.qcow2', '-F', 'qcow2', 'over-aes.qcow2', '1M');
    create('-u', '-b', 'over.qcow2', '-F', 'qcow2', '-o', luks('top'), 'third.qcow2', '1M');
    const json = JSON.stringify({
      driver: 'qcow2',
      encrypt: { 'key-secret': 'base' },
      file: { driver: 'file', filename: join(scratch.path, 'ours', 'luks.qcow2') },
    });
    create('-u', '-b', json.replace('{', 'json:{'), '-F', 'qcow2', 'over-json.qcow2', '1M');
    must('cp', ['-r', ours, theirs]);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const some = commands.filter((_, index) => index === 0 || index === 6);
  it.each([
    ['an encrypted image', commands, ['--image-opts', baseOptions]],
    ['one over it', some, ['--image-opts', overOptions]],
    ['one over it, in JSON', some, [jsonOver]],
    ['one whose name in it says the secret', some, ['over-json.qcow2']],
    [
      'a third one',
      commands.filter((_, index) => [0, 6, 8, 10].includes(index)),
      [
        '--image-opts',
        'file.filename=third.qcow2,encrypt.key-secret=top,backing.backing.encrypt.key-secret=base',
      ],
    ],
  ] as const)('%s: the commands', (_, asked, image) => {
    for (const command of asked) {
      // The bitmaps of an image are looked at without what is below it: so QEMU takes no word about that there.
      const bare = image.map((word) =>
        commands.indexOf(command) >= 10 ? word.replace(/,backing.*/, '') : word,
      );
      const step = parityCase({ args: command(...secrets, ...bare) });
      const outcome = step.runBoth(ours, theirs);
      expect(placeless(outcome.ours), step.title).toEqual(placeless(outcome.theirs));
    }
  });

  it('what does not open is refused in the same words', () => {
    for (const [index, image] of refusals.entries()) {
      const command = commands[[0, 6, 8][index % 3]!]!;
      const step = parityCase({ args: command(...secrets, ...image) });
      const outcome = step.runBoth(ours, theirs);
      expect(outcome.ours, step.title).toEqual(outcome.theirs);
      expect(outcome.theirs.status, step.title).toBe(1);
    }
    for (const args of [
      ['check', '-f', 'qcow2', '--image-opts', 'file.filename=over.qcow2'],
      ['info', '--image-opts', 'file.filename=over.qcow2'],
      ['info', '--output=json', '--backing-chain', '--image-opts', 'driver=qcow2,file.filename=over.qcow2'],
      [
        'info',
        '--backing-chain',
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"third.qcow2"}}',
      ],
      ['info', '--image-opts', 'driver=raw,file.filename=aes.qcow2'],
    ]) {
      const step = parityCase({ args: [...args] });
      const outcome = step.runBoth(ours, theirs);
      const [a, b] = [outcome.ours, outcome.theirs].map((one) => ({
        ...one,
        // How many blocks a file takes is the file system's to say.
        stdout: one.stdout
          .replaceAll(/(disk size: |"actual-size": ).*/g, '$1')
          .replaceAll(/\d\d:\d\d:\d\d |"date-n?sec": \d+|\d{4}-\d\d-\d\d/g, ''),
      }));
      expect(a, step.title).toEqual(b);
    }
  });

  it.each([
    ['LUKS below', 'over.qcow2', 'backing.encrypt.key-secret=base', 0x11],
    ['AES below', 'over-aes.qcow2', 'backing.encrypt.key-secret=base', 0x22],
    [
      'LUKS two below, and on top',
      'third.qcow2',
      'encrypt.key-secret=top,backing.backing.encrypt.key-secret=base',
      0x11,
    ],
    [
      'a file named in place of the one below',
      'over.qcow2',
      'backing.driver=qcow2,backing.file.filename=aes.qcow2,backing.encrypt.key-secret=base',
      0x22,
    ],
    ['nothing below', 'over.qcow2', 'backing=', 0],
  ])(
    '[ENC-008] %s: what is read, and copied around writes, is in the clear',
    async (_, image, list, pattern) => {
      const copy = `copy-${image}`;
      must('cp', [image, copy], { cwd: ours });
      const options = `driver=qcow2,file.filename=${copy},${list}`;
      const socket = join(scratch.path, 'sock');
      const server = await startServer(['-t', '-k', socket, ...secrets, '--image-opts', options], [], {
        cwd: ours,
      });
      const asked = [
        '-c',
        `read -P ${pattern} 0 1M`,
        '-c',
        'write -P 0x77 5000 100000',
        '-c',
        'write -P 0x78 300000 512',
      ];
      must('qemu-io', ['-f', 'raw', ...asked, `nbd+unix:///?socket=${socket}`]);
      expect(await server.end('SIGTERM')).toBe(0);
      const theirList = list === 'backing=' ? '' : `,${list}`;
      const named = `driver=qcow2,file.filename=${copy}${theirList}`;
      if (theirList === '') {
        must('qemu-img', ['rebase', '-u', '-b', '', copy], { cwd: ours });
      }
      const read = io(
        ours,
        named,
        `read -P ${pattern} 0 5000`,
        'read -P 0x77 5000 100000',
        `read -P ${pattern} 105000 90000`,
        'read -P 0x78 300000 512',
        `read -P ${pattern} 300512 700000`,
      );
      expect(read).not.toContain('Pattern verification failed');
      must('qemu-img', ['check', '-q', ...secrets, '--image-opts', named], { cwd: ours });
    },
  );

  it('a name in an image says which secret opens what it means, and no more', () => {
    const serve = (backing: string, ...words: string[]) => {
      must(
        'qemu-img',
        ['create', '-q', '-f', 'qcow2', '-u', '-b', `json:${backing}`, '-F', 'qcow2', 'asks.qcow2', '1M'],
        { cwd: ours },
      );
      return qcow2(['check', '-r', 'all', ...secrets, ...words, 'asks.qcow2'], { cwd: ours }).stderr;
    };
    const file = '"file":{"driver":"file","filename":"luks.qcow2"}';
    expect(serve(`{"driver":"qcow2",${file},"encrypt.key-secret":"base"}`)).toBe('');
    expect(serve(`{"driver":"qcow2",${file},"encrypt.key-secret":"none"}`)).toContain(
      "No secret with id 'none'",
    );
    expect(serve(`{"driver":"qcow2",${file},"l2-cache-size":"1M"}`)).toContain(
      "'l2-cache-size' is more than a local file",
    );
    expect(serve(`{"driver":"qcow2",${file},"backing":{"file.filename":"/etc/hostname"}}`)).toContain(
      "'backing.file.filename' is more than a local file",
    );
    expect(serve(`{"driver":"qcow2",${file},"encrypt.key-secret":"base"}`, '--untrusted')).toContain(
      'not trusted',
    );
    expect(
      serve(`{"driver":"qcow2",${file},"encrypt.key-secret":"base"}`, '--confine', '/proc/self'),
    ).toContain('does not lie in');
  });

  it('what is said of a backing file is not passed over where the image names none', () => {
    const says = (list: string) =>
      qcow2(['check', '-r', 'all', ...secrets, '--image-opts', list], { cwd: ours });
    const plain = 'driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=base';
    expect(says(plain).status).toBe(0);
    expect(says(`${plain},backing=`).status).toBe(0);
    expect(says(`${plain},backing.file.filename=luks.qcow2`)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(
        "Parameter 'backing' is not supported for an image that names no backing file",
      ),
    });
  });

  it('every command that opens a chain keeps to what is said about names', () => {
    for (const command of commands.filter((_, index) => [0, 6, 8].includes(index))) {
      for (const [words, message] of [
        [['--untrusted'], 'not trusted'],
        [['--confine', '/proc/self'], 'does not lie in'],
      ] as const) {
        const outcome = qcow2(command(...words, ...secrets, '--image-opts', overOptions), { cwd: ours });
        expect(outcome.status).toBe(1);
        expect(outcome.stderr).toContain(message);
      }
    }
    expect(
      run('qemu-img', ['check', '-q', ...secrets, '--image-opts', overOptions], { cwd: ours }).status,
    ).toBe(0);
  });
});

/** Where clusters are taken is each one's own affair. */
function placeless<T extends { readonly stdout: string }>(outcome: T): T {
  return { ...outcome, stdout: outcome.stdout.replace(/Image end offset: \d+/, '') };
}
