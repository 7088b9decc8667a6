/** `map`, `compare` and `measure` beside the real qemu-img: the same arguments through both, and what they print compared as it is. */
import { makeDisks } from '../support/disk-zoo.ts';
import { compareCases, mapCases, measureCases } from '../support/look-cases.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'map, compare and measure beside qemu-img', () => {
  parityTable([...mapCases, ...compareCases, ...measureCases], makeDisks);
});
