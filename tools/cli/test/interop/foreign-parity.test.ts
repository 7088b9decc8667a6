/** Formats of other programs beside the real qemu-img: what is said of such images, and what comes of a copy. */
import { linkSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { foreignCases } from '../support/foreign-cases.ts';
import { makeForeignDisks } from '../support/foreign-zoo.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'foreign formats beside qemu-img', () => {
  let first: string | undefined;
  parityTable(foreignCases, (folder) => {
    if (first === undefined) {
      first = folder;
      makeForeignDisks(folder);
      return;
    }
    // Nobody writes to them, and each has an identity of its own: both programs look at the same files.
    for (const name of readdirSync(first)) linkSync(join(first, name), join(folder, name));
  });
});
