/** What `convert` is asked, beside qemu-img. The disks are those of `disk-zoo.ts`. */
import { luksName } from './disk-zoo.ts';
import type { TableCase } from './parity-table.ts';

const secret = ['--object', 'secret,id=s,data=abc'];
type Row = string | readonly [text: string, deviation: string];

const words = (text: string): string[] => text.split(' ').filter((word) => word !== '');

/** Calls that are refused, or make nothing: what is said is compared. */
function refused(rows: readonly Row[]): TableCase[] {
  return rows.map((row) => {
    const [text, deviation] = typeof row === 'string' ? [row, undefined] : row;
    return { args: ['convert', ...words(text)], ...(deviation === undefined ? {} : { deviation }) };
  });
}

/** Calls that make `OUT`, which is to be the same disk; allocated alike where qemu-img has no habit of its own. */
function made(makes: 'the same' | 'the same disk', rows: readonly string[]): TableCase[] {
  return rows.map((text) => ({ args: ['convert', ...words(text), 'OUT'], makes }));
}

export const convertCases: readonly TableCase[] = [
  ...made('the same', [
    'base.qcow2',
    '-O qcow2 base.qcow2',
    '-O qcow2 base.raw',
    '-O qcow2 top.qcow2',
    'third.qcow2',
    '-p base.qcow2',
    '-p -q -O qcow2 top.qcow2',
    '-O qcow2 -c base.raw',
    '-O qcow2 -c -W third.qcow2',
    '-O qcow2 -c -o compression_type=zstd base.raw',
    '-O qcow2 -c -o cluster_size=4k tiny.qcow2',
    '-W -m 16 top.qcow2',
    '-m 1 -O qcow2 third.qcow2',
    '-O qcow2 -o cluster_size=512 top.qcow2',
    '-O qcow2 -o cluster_size=2M top.qcow2',
    '-O qcow2 -o extended_l2=on sub2.qcow2',
    '-O qcow2 -o compat=0.10 top.qcow2',
    '-O qcow2 -o lazy_refcounts=on,refcount_bits=1 base.raw',
    '-O qcow2 -o size=5M top.qcow2',
    '-O qcow2 -S 0 top.qcow2',
    '-S 0 top.qcow2',
    '-S 512 top.qcow2',
    '-S 64k top.qcow2',
    '-o preallocation=full base.raw',
    '-O qcow2 base.raw odd.raw top.qcow2 nothing.raw sparse.raw',
    '-O qcow2 -c base.raw odd.raw nothing.raw sparse.raw',
    'base.raw odd.raw nothing.raw sparse.raw',
    '-O qcow2 -l one snapshots.qcow2',
    '-O qcow2 -l snapshot.name=two snapshots.qcow2',
    '-l snapshot.id=1 snapshots.qcow2',
    '-O qcow2 -B base.qcow2 -F qcow2 top.qcow2',
    '-O qcow2 -c -B base.qcow2 -F qcow2 top.qcow2',
    '-O qcow2 -B top.qcow2 -F qcow2 third.qcow2',
    '-O qcow2 -o backing_file=base.raw,backing_fmt=raw top.qcow2',
    '-O qcow2 -B longer.raw -F raw top.qcow2',
    'comp.qcow2',
    '-O qcow2 zstd.qcow2',
    'tiny.qcow2',
    '-O qcow2 v2.qcow2',
    '-O qcow2 nothing.raw',
    'empty.qcow2',
    '-O qcow2 sparse.raw',
    '-f raw base.qcow2',
    '-U -t none -T none -O qcow2 base.raw',
    '-t writethrough -r 1G base.raw',
    '-C base.raw',
    '--salvage base.qcow2',
    '--image-opts driver=qcow2,file.filename=top.qcow2',
  ]),
  ...made('the same disk', [
    'sparse.raw',
    'external.qcow2',
    '-O qcow2 --bitmaps bitmaps.qcow2',
    '-O qcow2 -o preallocation=metadata base.raw',
    '-O qcow2 pre.qcow2',
  ]),
  { args: ['convert', ...secret, '--image-opts', luksName, 'OUT'], makes: 'the same disk' },
  // Into what is there already.
  ...['-n base.raw', '-n -W top.qcow2', '-n third.qcow2', '-n --target-is-zero base.raw'].map(
    (text): TableCase => ({
      args: ['convert', ...words(text), 'old.raw'],
      changes: 'old.raw',
      makes: 'the same disk',
    }),
  ),
  ...['-n -O qcow2 base.raw', '-n -O qcow2 -S 0 sparse.raw', '-n -O qcow2 third.qcow2'].map(
    (text): TableCase => ({ args: ['convert', ...words(text), 'old.qcow2'], changes: 'old.qcow2' }),
  ),
  {
    args: ['convert', '-n', '--target-image-opts', 'top.qcow2', 'driver=qcow2,file.filename=old.qcow2'],
    changes: 'old.qcow2',
  },
  ...refused([
    '',
    'base.qcow2',
    '-O qcow2 nope OUT',
    '-O bogus base.qcow2 OUT',
    '-O raw base.qcow2 /nonexistent/out',
    '-O qcow2 base.qcow2 /nonexistent/out',
    '-O qcow2 -o bogus=1 base.qcow2 OUT',
    '-O qcow2 -o cluster_size=3 base.qcow2 OUT',
    '-O qcow2 -o cluster_size=x base.qcow2 OUT',
    '-O raw -c base.qcow2 OUT',
    '-S x base.qcow2 OUT',
    '-S 100 base.qcow2 OUT',
    '-S 4G base.qcow2 OUT',
    '-m 0 base.qcow2 OUT',
    '-m 17 base.qcow2 OUT',
    '-t foo base.qcow2 OUT',
    '-T foo base.qcow2 OUT',
    '-r x base.qcow2 OUT',
    '-n base.qcow2 nothere',
    '-n -O bogus base.qcow2 base.raw',
    '-n -o cluster_size=4k -O qcow2 base.qcow2 full.qcow2',
    '-n -O qcow2 longer.raw full.qcow2',
    '--target-is-zero base.qcow2 OUT',
    '--skip-broken-bitmaps base.qcow2 OUT',
    '--bitmaps bitmaps.qcow2 OUT',
    '--bitmaps -O qcow2 base.raw OUT',
    '--bitmaps -O qcow2 -o compat=0.10 bitmaps.qcow2 OUT',
    '--bitmaps -O qcow2 bitmaps.qcow2 bitmaps.qcow2 OUT',
    '-l nope -O qcow2 snapshots.qcow2 OUT',
    '-l snapshot.foo=1 -O qcow2 snapshots.qcow2 OUT',
    '-l one -O qcow2 base.raw OUT',
    '-l one base.raw base.raw OUT',
    '-C -S 4k base.raw OUT',
    '-C -c -O qcow2 base.raw OUT',
    '-C --salvage base.raw OUT',
    '--target-image-opts base.raw OUT',
    'base.raw base.raw',
    '-O qcow2 top.qcow2 base.qcow2',
    '-F qcow2 base.raw OUT',
    '-B base.qcow2 base.raw OUT',
    '-O qcow2 -B base.qcow2 top.qcow2 OUT',
    '-O qcow2 -B nope -F qcow2 top.qcow2 no-backing.qcow2',
    '-O qcow2 -B base.qcow2 -F qcow2 top.qcow2 top.qcow2 OUT',
    '-O raw -o preallocation=metadata base.raw OUT',
    '-O qcow2 -o encrypt.format=luks base.raw OUT',
    '-O qcow2 -o encrypt.format=luks,encrypt.key-secret=s base.raw OUT',
    'luks.qcow2 OUT',
    '--image-opts -f raw a b',
    '. OUT',
    '-O qcow2 base.raw .',
    '-f nope base.raw OUT',
    '-o help base.raw',
    '-O qcow2 -o help=1 base.raw OUT',
    '-D base.raw OUT',
    ['-O vmdk base.raw OUT', 'other-formats'],
    ['-O qcow2 -o nocow=on base.raw OUT', 'create-options'],
    ['-o help base.raw OUT', 'create-options'],
    ['-O qcow2 -c -o data_file=ddd base.raw incomplete.qcow2', 'incomplete-target'],
  ]),
];
