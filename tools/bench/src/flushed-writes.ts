/**
 * Durability: 4 KiB random writes, each flushed. In every round each contender first writes where its image
 * has no clusters yet (they are allocated), then again at the same places (they are overwritten).
 */
import { type Contender, ourContenders, qemuNbd, serveAll } from './contender.ts';
import type { FioLoad } from './fio.ts';
import { Ledger } from './ledger.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const imageBytes = 4 * 2 ** 30;
/** Each round has a part of the disk for itself. The last part is for the warm-up. */
const partBytes = 256 * 2 ** 20;
const maxRounds = imageBytes / partBytes - 1;

const workloads = ['allocating', 'overwriting'] as const;

export async function flushedWrites(workspace: Workspace, options: BenchOptions): Promise<object> {
  const { journalled, ordinary } = ourContenders(options.command);
  const contenders = [journalled, ordinary, qemuNbd.qcow2, qemuNbd.lazy, qemuNbd.raw];
  const requests = options.quick ? 100 : 400;
  const loadOf = (part: number, count: number): FioLoad => ({
    pattern: 'randwrite',
    queueDepth: 1,
    blockBytes: 4096,
    offset: part * partBytes,
    sizeBytes: partBytes,
    seed: part + 1,
    limitMs: 5000,
    requests: count,
    flushEvery: 1,
  });
  const ledger = new Ledger();
  const servers = await serveAll(
    workspace,
    contenders,
    (contender, image) => contender.create(workspace, image, imageBytes),
    loadOf(maxRounds, options.quick ? 200 : 1000),
  );
  const plan = { rounds: Math.min(options.rounds, maxRounds), budgetMs: options.quick ? 9_000 : 75_000 };
  const rounds = await runRounds(plan, async (round) => {
    const load = loadOf(round, requests);
    for (const contender of rotated(contenders, round)) {
      for (const workload of workloads) {
        await ledger.measure(workload, contender, servers.get(contender)!, workspace, load);
      }
    }
  });
  for (const server of servers.values()) await server.stop();
  const results = workloads.map((workload) => {
    const rows = contenders.map((contender) => rowOf(ledger, workload, contender, journalled));
    options.print(`\n4 KiB at random, ${workload}, each flushed: ${requests} in each of ${rounds} rounds\n`);
    options.print(tableText(head, rows.map(cellsOf)));
    return { workload, rows };
  });
  return { rounds, requests, results };
}

const head = ['server', 'flushes/s', 'p50 µs', 'p99 µs', 'processor µs', 'journal / this one'];

function rowOf(ledger: Ledger, workload: string, contender: Contender, ours: Contender) {
  return {
    server: contender.name,
    flushesPerSecond: ledger.rate(workload, contender),
    flushP50Us: ledger.median(workload, contender, (result) => result.flushLatencyUs.p50),
    flushP99Us: ledger.median(workload, contender, (result) => result.flushLatencyUs.p99),
    processTimeUs: ledger.processTimeUs(workload, contender),
    oursToThis: ledger.ratio(workload, ours, contender),
  };
}

function cellsOf(row: ReturnType<typeof rowOf>): string[] {
  return [
    row.server,
    countText(row.flushesPerSecond),
    countText(row.flushP50Us),
    countText(row.flushP99Us),
    countText(row.processTimeUs),
    ratioText(row.oursToThis),
  ];
}
