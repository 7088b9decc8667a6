/** `map`, `compare`, `measure` and `bench` beside the real qemu-img: the same arguments through both, and what they print compared as it is. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeDisks } from '../support/disk-zoo.ts';
import { benchCases, compareCases, mapCases, measureCases } from '../support/look-cases.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'map, compare, measure and bench beside qemu-img', () => {
  parityTable([...mapCases, ...compareCases, ...measureCases, ...benchCases], (folder) => {
    makeDisks(folder);
    copyFileSync(join(folder, 'full.qcow2'), join(folder, 'written.qcow2'));
  });
});
