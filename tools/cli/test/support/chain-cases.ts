/** What `commit` and `rebase` are asked, beside qemu-img, each on a chain of its own. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { must } from './command.ts';
import type { TableCase } from './parity-table.ts';

/** A folder `chain`: base, mid and top, a raw base with an overlay, others that a top may get, and what each shows as a raw file. */
export function makeChain(folder: string): void {
  const cwd = join(folder, 'chain');
  mkdirSync(cwd);
  const img = (...args: string[]) => must('qemu-img', args, { cwd });
  const create = (...args: string[]) => img('create', '-q', '-f', 'qcow2', ...args);
  const io = (name: string, ...commands: string[]) =>
    must('qemu-io', [...commands.flatMap((command) => ['-c', command]), name], { cwd });
  create('base.qcow2', '1M');
  io('base.qcow2', 'write -P 1 0 128k', 'write -P 3 512k 4k');
  copyFileSync(join(cwd, 'base.qcow2'), join(cwd, 'new.qcow2'));
  io('new.qcow2', 'write -P 77 900k 4k');
  create('-b', 'base.qcow2', '-F', 'qcow2', 'mid.qcow2');
  io('mid.qcow2', 'write -P 2 64k 64k', 'write -z 512k 64k');
  create('-b', 'mid.qcow2', '-F', 'qcow2', 'top.qcow2', '2M');
  io('top.qcow2', 'write -P 9 96k 64k', 'write -z 0 64k', 'write -P 4 1500k 10k');
  create('-b', 'mid.qcow2', '-F', 'qcow2', '-o', 'cluster_size=4k', 'small.qcow2', '500k');
  io('small.qcow2', 'write -P 6 3k 3k', 'write -P 5 490k 10k');
  create('-b', 'mid.qcow2', '-F', 'qcow2', '-o', 'extended_l2=on', 'sub.qcow2');
  io('sub.qcow2', 'write -P 6 100k 3k');
  create('-b', 'mid.qcow2', '-F', 'qcow2', '-o', 'compat=0.10', 'v2.qcow2');
  io('v2.qcow2', 'write -P 6 700k 3k');
  img('convert', '-O', 'raw', 'base.qcow2', 'base.raw');
  create('-b', 'base.raw', '-F', 'raw', 'onraw.qcow2', '2M');
  io('onraw.qcow2', 'write -P 5 1M 64k', 'write -z 64k 64k');
  create('big.qcow2', '3M');
  io('big.qcow2', 'write -P 5 1M 2M');
  create('-b', 'mid.qcow2', '-F', 'qcow2', 'snapshots.qcow2');
  io('snapshots.qcow2', 'write -P 6 100k 3k');
  img('snapshot', '-c', 's', 'snapshots.qcow2');
  io('snapshots.qcow2', 'write -P 7 800k 3k');
  for (const name of ['mid', 'top', 'small', 'sub', 'v2', 'onraw', 'snapshots']) {
    img('convert', '-O', 'raw', `${name}.qcow2`, `${name}.raw`);
  }
}

const words = (text: string): string[] => text.split(' ').filter((word) => word !== '');

type Row = readonly [text: string, after: readonly string[], deviation?: string];

function rows(command: string, keeps: boolean, list: readonly Row[]): TableCase[] {
  return list.map(([text, after, deviation]) => {
    const args = [command, ...words(text).map((word) => (word === "''" ? '' : word))];
    const last = text.split(/[ =]/).at(-1) ?? '';
    return {
      args,
      after,
      ...(keeps && after.includes(last) ? { keeps: last } : {}),
      ...(deviation === undefined ? {} : { deviation }),
    };
  });
}

const chain = ['base.qcow2', 'mid.qcow2', 'top.qcow2'];

export const commitCases: readonly TableCase[] = rows('commit', true, [
  ['top.qcow2', chain],
  ['-q top.qcow2', chain],
  ['-p top.qcow2', chain],
  ['-p -q top.qcow2', chain],
  ['-d top.qcow2', chain],
  ['-b base.qcow2 top.qcow2', ['base.qcow2', 'top.qcow2']],
  ['-b ./base.qcow2 top.qcow2', ['base.qcow2', 'top.qcow2']],
  ['-b mid.qcow2 top.qcow2', chain],
  ['-r 100M -t none top.qcow2', chain],
  ['--image-opts driver=qcow2,file.filename=top.qcow2', chain],
  ['mid.qcow2', ['base.qcow2', 'mid.qcow2']],
  ['small.qcow2', ['mid.qcow2', 'small.qcow2']],
  ['sub.qcow2', ['mid.qcow2', 'sub.qcow2']],
  ['v2.qcow2', ['mid.qcow2', 'v2.qcow2']],
  ['onraw.qcow2', ['onraw.qcow2', 'base.raw']],
  ['-f qcow2 -d -b base.raw onraw.qcow2', ['onraw.qcow2', 'base.raw']],
  ['snapshots.qcow2', ['mid.qcow2', 'snapshots.qcow2']],
  ['', chain],
  ['nope', chain],
  ['base.qcow2', chain],
  ['-f raw top.qcow2', chain],
  ['-b nope top.qcow2', chain],
  ['-b top.qcow2 top.qcow2', chain],
  ['-t foo top.qcow2', chain],
  ['-r x top.qcow2', chain],
  ['a b', chain],
  ['--image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2', chain],
  ['base.raw', chain, 'guessed-raw-warning'],
]);

export const rebaseCases: readonly TableCase[] = [
  ...rows('rebase', true, [
    ['-b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b new.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b mid.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b big.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b base.raw -F raw top.qcow2', ['top.qcow2']],
    ["-b '' top.qcow2", ['top.qcow2']],
    ['-p -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-q -p -t none -T none -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-U -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['--image-opts -b base.qcow2 -F qcow2 driver=qcow2,file.filename=top.qcow2', ['top.qcow2']],
    ['-b new.qcow2 -F qcow2 small.qcow2', ['small.qcow2']],
    ["-b '' small.qcow2", ['small.qcow2']],
    ['-b new.qcow2 -F qcow2 sub.qcow2', ['sub.qcow2']],
    ["-b '' sub.qcow2", ['sub.qcow2']],
    ['-b new.qcow2 -F qcow2 v2.qcow2', ['v2.qcow2']],
    ["-b '' v2.qcow2", ['v2.qcow2']],
    ["-b '' onraw.qcow2", ['onraw.qcow2']],
    ['-b top.qcow2 -F qcow2 snapshots.qcow2', ['snapshots.qcow2']],
    ['', ['top.qcow2']],
    ['top.qcow2', ['top.qcow2']],
    ['-F qcow2 top.qcow2', ['top.qcow2']],
    ['-b base.qcow2 -F qcow2 top.qcow2 extra', ['top.qcow2']],
    ['-b nope -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b base.qcow2 -F nope top.qcow2', ['top.qcow2']],
    ['-b top.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-b base.qcow2 -F qcow2 -f raw top.qcow2', ['top.qcow2']],
    ['-b base.qcow2 nope', ['top.qcow2']],
    ['-t foo -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-T foo -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ["-c -b '' top.qcow2", ['top.qcow2']],
    ['-b base.qcow2 -F vmdk top.qcow2', [], 'other-formats'],
  ]),
  // Nothing is written that is not needed, and so the image stays what it was.
  ...rows('rebase', false, [
    ['-b base.qcow2 top.qcow2', []],
    ['-u -b new.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ["-u -b '' top.qcow2", ['top.qcow2']],
    ['-u top.qcow2', ['top.qcow2']],
    ['-u -F qcow2 top.qcow2', ['top.qcow2']],
    ['-u -b base.qcow2 top.qcow2', ['top.qcow2']],
    ['-u -b base.qcow2 -F bogus top.qcow2', ['top.qcow2']],
    ['-u -U -b base.qcow2 -F qcow2 top.qcow2', ['top.qcow2']],
    ['-u -b base.qcow2 -F qcow2 v2.qcow2', ['v2.qcow2']],
    [`-u -b ${'x'.repeat(1100)} -F qcow2 top.qcow2`, ['top.qcow2']],
    ['-u -b base.qcow2 -F qcow2 -f raw top.qcow2', ['top.qcow2']],
  ]),
];
