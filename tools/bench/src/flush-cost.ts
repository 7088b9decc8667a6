/**
 * `bench flush-cost`: what a flushed 4 KiB write costs in system calls and bytes written to the file, by strace: two
 * cases of `bench benefit` (allocating, and overwriting) and nothing about time. System calls and bytes do not depend on how
 * busy the machine is, so one run of each is enough.
 */
import { benefitCases } from './benefit/cases.ts';
import { benefitContenders, Sources } from './benefit/contenders.ts';
import { type Cost, costOf, inAll } from './benefit/cost.ts';
import { randomFrom, sumOf } from './benefit/operations.ts';
import type { BenchOptions } from './options.ts';
import { tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const names = ['random-1', 'overwrite-1'];

interface Row {
  readonly case: string;
  readonly server: string;
  readonly writes: number;
  readonly cost: Cost;
}

export async function flushCost(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const share = options.quick ? 0.3 : 1;
  const sources = new Sources(workspace);
  const contenders = benefitContenders(workspace, sources, options.command).filter(
    ({ id }) => !options.without.includes(id),
  );
  const rows: Row[] = [];
  for (const one of benefitCases.filter(({ name }) => names.includes(name))) {
    const place = { guestOffset: 0, lengthBytes: one.placeBytes };
    const { writes } = sumOf(one.operations(place, randomFrom(1), share));
    for (const contender of contenders) {
      const cost = await costOf(workspace, sources, contender, one, share);
      rows.push({ case: one.name, server: contender.name, writes, cost });
    }
  }
  options.print('\nCost of a random 4 KiB write and its flush, by strace\n');
  options.print(tableText(head, rows.map(cellsOf)));
  return { rows };
}

const head = ['case', 'server', 'fdatasync', 'writes', 'bytes', 'fdatasync in all', 'bytes in all'];

function cellsOf({ case: name, server, writes, cost }: Row): string[] {
  const { flushes, serving } = cost;
  const all = inAll(cost);
  return [
    name,
    server,
    (serving.syncs / flushes).toFixed(3),
    (serving.writes / writes).toFixed(2),
    (serving.writtenBytes / writes).toFixed(0),
    (all.syncs / flushes).toFixed(3),
    (all.writtenBytes / writes).toFixed(0),
  ];
}
