/** `dd`, `commit` and `rebase` beside the real qemu-img: what is printed, and what every image shows and says afterwards. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { commitCases, makeChain, rebaseCases } from '../support/chain-cases.ts';
import { ddCases } from '../support/copy-cases.ts';
import { makeDisks } from '../support/disk-zoo.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'dd beside qemu-img', () => {
  parityTable(ddCases, (folder) => {
    makeDisks(folder);
    copyFileSync(join(folder, 'base.raw'), join(folder, 'own.raw'));
  });
});

describeWith(['qemu-img', 'qemu-io'], 'commit and rebase beside qemu-img', () => {
  parityTable([...commitCases, ...rebaseCases], makeChain);
});
