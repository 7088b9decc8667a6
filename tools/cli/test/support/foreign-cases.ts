/** What commands that read are asked about formats of other programs, beside qemu-img. The disks are those of `foreign-zoo.ts`. */
import type { TableCase } from './parity-table.ts';

const words = (text: string): string[] => text.split(' ').filter((word) => word !== '');

function asked(rows: readonly (string | readonly [text: string, deviation: string])[]): TableCase[] {
  return rows.map((row) => {
    const [text, deviation] = typeof row === 'string' ? [row, undefined] : row;
    return { args: words(text), ...(deviation === undefined ? {} : { deviation }) };
  });
}

const made = (rows: readonly string[]): TableCase[] =>
  rows.map((text) => ({ args: words(text), makes: 'the same' }));

/** As arguments name them: by their mark, and the others with -f. */
const disks = [
  ...['dynamic.vdi', 'static.vdi', 'written.vdi', 'empty.vdi'],
  ...['dynamic.vpc', 'forced.vpc', 'written.vpc', 'empty.vpc'],
  ...['fixed.vpc', '-f vpc fixed.vpc', '-f vpc fixed-forced.vpc'],
  ...['monolithicSparse.vmdk', 'monolithicFlat.vmdk', 'twoGbMaxExtentSparse.vmdk', 'twoGbMaxExtentFlat.vmdk'],
  ...['streamOptimized.vmdk', 'zero-grains.vmdk', 'parts.vmdk', 'written.vmdk'],
  ...['on-vdi.qcow2', 'on-vpc.qcow2', 'on-vmdk.qcow2'],
];
/** What they know of themselves qemu-img does not ask. */
const vhdxDisks = ['dynamic.vhdx', 'fixed.vhdx', 'small-blocks.vhdx', 'written.vhdx', 'empty.vhdx'];
const copied = [...disks, ...vhdxDisks, 'on-vhdx.qcow2'].filter((name) => !/^empty|^written.vmdk/.test(name));
const strictly = (name: string): TableCase => ({
  args: words(`compare -s -F raw ${name} disk.raw`),
  ...(name.endsWith('.vhdx') && name !== 'written.vhdx' ? { deviation: 'vhdx-map' } : {}),
});

export const foreignCases: readonly TableCase[] = [
  ...disks.flatMap((name) =>
    asked([
      `info ${name}`,
      `info --output=json ${name}`,
      `map ${name}`,
      `map --output=json ${name}`,
      `measure -O qcow2 ${name}`,
    ]),
  ),
  ...vhdxDisks.flatMap((name) => asked([`info ${name}`, `info --output=json ${name}`])),
  ...copied.flatMap((name) => [
    ...asked([`compare -F raw ${name} disk.raw`]),
    strictly(name),
    ...made([`convert ${name} OUT`, `convert -O qcow2 ${name} OUT`]),
  ]),
  ...made([
    'convert -O qcow2 -c static.vdi OUT',
    'convert -S 0 dynamic.vdi OUT',
    'convert -O qcow2 -S 0 forced.vpc OUT',
    'convert -O qcow2 dynamic.vdi dynamic.vpc disk.raw OUT',
    'convert -O qcow2 -c streamOptimized.vmdk OUT',
    'convert -W -m 16 twoGbMaxExtentSparse.vmdk OUT',
    'convert -O qcow2 -B dynamic.vdi -F vdi on-vdi.qcow2 OUT',
    'convert --image-opts driver=vdi,file.filename=dynamic.vdi OUT',
    'dd -O qcow2 if=dynamic.vdi of=OUT',
    'dd -f vpc bs=700 skip=3 count=1000 if=forced.vpc of=OUT',
  ]),
  ...asked([
    'info --backing-chain on-vdi.qcow2',
    'info --backing-chain --output=json on-vpc.qcow2',
    'info --backing-chain difference.vmdk',
    'info --backing-chain --output=json difference.vmdk',
    ['map difference.vmdk', 'other-formats'],
    'info missing.vmdk',
    'info custom.vmdk',
    ['info no-start.vmdk', 'malformed-wording'],
    ['info zeros.vmdk', 'vmdk-extents'],
    'info -f vmdk disk.raw',
    'info -f vmdk dynamic.vdi',
    'info -f vhdx disk.raw',
    ['map --output=json dynamic.vhdx', 'vhdx-map'],
    ['map --output=json written.vhdx', 'vhdx-map'],
    ['measure -O qcow2 written.vhdx', 'vhdx-map'],
    ['check monolithicSparse.vmdk', 'other-formats'],
    'create -f qcow2 -b monolithicFlat.vmdk OUT',
    'info -f raw dynamic.vdi',
    'info -f vdi dynamic.vpc',
    'info -f vpc disk.raw',
    'info -f vpc dynamic.vdi',
    ['info -f vdi short.raw', 'malformed-wording'],
    ['info cut.vpc', 'malformed-wording'],
    'info cut.vdi',
    'map --output=json cut.vdi',
    ['convert -O qcow2 cut.vdi OUT', 'cut-off-images'],
    'info --image-opts driver=vdi,file.filename=dynamic.vdi',
    'info --image-opts driver=vpc,file.filename=dynamic.vpc,foo=1',
    'map -s 3M -l 2M --output=json dynamic.vdi',
    'compare dynamic.vdi static.vdi',
    'compare -s dynamic.vdi static.vdi',
    'compare dynamic.vdi forced.vpc',
    'check dynamic.vpc',
    ['check dynamic.vdi', 'other-formats'],
    'convert -l one dynamic.vdi OUT',
    ['create -f vdi OUT 1M', 'other-formats'],
    ['convert -O vpc disk.raw OUT', 'other-formats'],
  ]),
];
