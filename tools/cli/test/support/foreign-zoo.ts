/** Disks in formats of other programs, as QEMU makes them, with all of its subformats: what is read of them. */
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { must } from './command.ts';

const vmdkSubformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
] as const;

const bases = [
  ['dynamic.vdi', 'vdi'],
  ['dynamic.vpc', 'vpc'],
  ['monolithicFlat.vmdk', 'vmdk'],
  ['dynamic.vhdx', 'vhdx'],
] as const;

function vmdkDescriptor(type: string, lines: readonly string[]): string {
  const head = ['# Disk DescriptorFile', 'version=1', 'CID=1', 'parentCID=ffffffff', `createType="${type}"`];
  return `${[...head, ...lines].join('\n')}\n`;
}

/** Make all of them in `folder`; `disk.raw` is what most of them hold. */
export function makeForeignDisks(folder: string): void {
  const img = (...args: string[]) => must('qemu-img', args, { cwd: folder });
  const io = (name: string, format: string, ...commands: string[]) =>
    must('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), name], { cwd: folder });
  img('create', '-q', '-f', 'raw', 'disk.raw', '5M');
  io('disk.raw', 'raw', 'write -P 1 0 128k', 'write -P 3 1M 4k', 'write -P 4 3000k 900k');
  const made = (format: string, name: string, options?: string) =>
    img(
      'convert',
      '-f',
      'raw',
      '-O',
      format,
      ...(options === undefined ? [] : ['-o', options]),
      'disk.raw',
      name,
    );
  made('vdi', 'dynamic.vdi');
  made('vdi', 'static.vdi', 'static=on');
  made('vpc', 'dynamic.vpc');
  made('vpc', 'forced.vpc', 'force_size=on');
  made('vpc', 'fixed.vpc', 'subformat=fixed');
  made('vpc', 'fixed-forced.vpc', 'subformat=fixed,force_size=on');
  for (const subformat of vmdkSubformats) made('vmdk', `${subformat}.vmdk`, `subformat=${subformat}`);
  made('vhdx', 'dynamic.vhdx');
  made('vhdx', 'fixed.vhdx', 'subformat=fixed');
  made('vhdx', 'small-blocks.vhdx', 'block_size=1M');
  const written = (format: string, name: string, sizeText: string, options?: string) => {
    img('create', '-q', '-f', format, ...(options === undefined ? [] : ['-o', options]), name, sizeText);
    const writes = ['write -P 2 0 4k', 'write -P 9 4500k 70k', 'write -P 8 100k 3k', 'write -z 3M 64k'];
    io(name, format, ...writes, 'write -P 7 2040k 20k');
  };
  written('vdi', 'written.vdi', '7M');
  written('vpc', 'written.vpc', '130M');
  written('vmdk', 'written.vmdk', '5G', 'subformat=twoGbMaxExtentSparse');
  written('vmdk', 'zero-grains.vmdk', '5M', 'zeroed_grain=on');
  written('vhdx', 'written.vhdx', '300M', 'block_size=1M');
  img('create', '-q', '-f', 'vhdx', 'empty.vhdx', '64T');
  img('create', '-q', '-f', 'vmdk', '-b', 'monolithicSparse.vmdk', '-F', 'vmdk', 'difference.vmdk');
  img('create', '-q', '-f', 'vdi', 'empty.vdi', '1T');
  img('create', '-q', '-f', 'vpc', 'empty.vpc', '100G');
  for (const [name, format] of bases) {
    img('create', '-q', '-f', 'qcow2', '-b', name, '-F', format, `on-${format}.qcow2`, '8M');
    io(`on-${format}.qcow2`, 'qcow2', 'write -P 5 64k 64k', 'write -z 3M 1M', 'write -P 6 6M 3k');
  }
  copyFileSync(join(folder, 'dynamic.vpc'), join(folder, 'cut.vpc'));
  truncateSync(join(folder, 'cut.vpc'), 3 * 1024 * 1024);
  copyFileSync(join(folder, 'dynamic.vdi'), join(folder, 'cut.vdi'));
  truncateSync(join(folder, 'cut.vdi'), 3 * 1024 * 1024);
  writeFileSync(join(folder, 'short.raw'), 'hello');
  const descriptor = (name: string, type: string, ...lines: string[]) =>
    writeFileSync(join(folder, name), vmdkDescriptor(type, lines));
  descriptor('parts.vmdk', 'vmfs', 'RW 100 FLAT "disk.raw" 2048', 'RW 2000 VMFS "disk.raw"');
  descriptor('zeros.vmdk', 'monolithicFlat', 'RW 100 FLAT "disk.raw" 8', 'RW 10 ZERO');
  descriptor('missing.vmdk', 'vmfs', 'RW 100 VMFS "nothere.vmdk"');
  descriptor('custom.vmdk', 'custom', 'RW 100 FLAT "disk.raw" 8');
  descriptor('no-start.vmdk', 'monolithicFlat', 'RW 100 FLAT "disk.raw"');
}
