/**
 * `bench nbd`: our server beside qemu-nbd, over a unix socket, with fio. First the hot path, then writes that
 * are flushed (`flushed-writes.ts`).
 *
 * The hot path is 4 KiB random reads and writes on an image whose every cluster is written, nothing flushed. At
 * queue depth 1 client and server wait for each other by turns, and what is measured depends on
 * where the scheduler puts them: on one processor a request costs what both compute; on two it costs
 * mostly the waking of a processor that went to sleep, several times as much in a virtual machine. Left alone, it is a
 * lottery with two prizes; so both are measured, with each in its place.
 */
import { filledImage, freshCopy, ourContenders, qemuNbd, serveAll } from './contender.ts';
import type { FioLoad } from './fio.ts';
import { flushedWrites } from './flushed-writes.ts';
import { Ledger } from './ledger.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const filledBytes = 64 * 2 ** 20;
const blockBytes = 4096;

const placements = {
  one: { server: '0', client: '0' },
  two: { server: '1', client: '0' },
  free: { server: '0-1', client: '0-1' },
} as const;

const hotCases = [
  { name: 'read, depth 1, one processor', pattern: 'randread', queueDepth: 1, placement: placements.one },
  { name: 'read, depth 1, two processors', pattern: 'randread', queueDepth: 1, placement: placements.two },
  { name: 'read, depth 32', pattern: 'randread', queueDepth: 32, placement: placements.free },
  { name: 'write, depth 1, one processor', pattern: 'randwrite', queueDepth: 1, placement: placements.one },
  { name: 'write, depth 1, two processors', pattern: 'randwrite', queueDepth: 1, placement: placements.two },
  { name: 'write, depth 32', pattern: 'randwrite', queueDepth: 32, placement: placements.free },
] as const;

/** Not measured: a server that has just started compiles, and fills its caches. */
const warmUp: FioLoad = {
  pattern: 'randread',
  queueDepth: 32,
  blockBytes,
  sizeBytes: filledBytes,
  seed: 99,
  limitMs: 400,
};

export async function nbdBenchmark(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const hot = await hotPath(workspace, options);
  const flushed = await flushedWrites(workspace, options);
  return { hot, flushed };
}

async function hotPath(workspace: Workspace, options: BenchOptions): Promise<object> {
  const { journalled, ordinary } = ourContenders(options.command);
  const contenders = [journalled, ordinary, qemuNbd.qcow2];
  const filled = await filledImage(workspace, filledBytes);
  const servers = await serveAll(
    workspace,
    contenders,
    async (contender, image) => {
      freshCopy(filled, image);
      await contender.adopt?.(workspace, image);
    },
    warmUp,
  );
  const ledger = new Ledger();
  const plan = { rounds: options.rounds, budgetMs: options.quick ? 9_000 : 75_000 };
  const rounds = await runRounds(plan, async (round) => {
    for (const { name, pattern, queueDepth, placement } of hotCases) {
      const load: FioLoad = {
        pattern,
        queueDepth,
        blockBytes,
        sizeBytes: filledBytes,
        seed: round + 1,
        limitMs: options.quick ? 200 : 500,
        processors: placement.client,
      };
      for (const contender of rotated(contenders, round)) {
        const server = servers.get(contender)!;
        await server.place(placement.server);
        await ledger.measure(name, contender, server, workspace, load);
      }
    }
  });
  for (const server of servers.values()) await server.stop();
  const cases = hotCases.map(({ name }) => ({
    case: name,
    journalled: ledger.rate(name, journalled),
    ordinary: ledger.rate(name, ordinary),
    qemuNbd: ledger.rate(name, qemuNbd.qcow2),
    journalledRatio: ledger.ratio(name, journalled, qemuNbd.qcow2),
    ordinaryRatio: ledger.ratio(name, ordinary, qemuNbd.qcow2),
    journalledProcessTimeUs: ledger.processTimeUs(name, journalled),
    ordinaryProcessTimeUs: ledger.processTimeUs(name, ordinary),
    qemuNbdProcessTimeUs: ledger.processTimeUs(name, qemuNbd.qcow2),
  }));
  options.print(
    `\n4 KiB at random, nothing flushed: requests a second, median of ${rounds} rounds; ratios within a round [min–max]\n`,
  );
  options.print(
    tableText(
      ['case', 'journal', 'no journal', 'qemu-nbd', 'journal / qemu', 'no journal / qemu'],
      cases.map((one) => [
        one.case,
        countText(one.journalled),
        countText(one.ordinary),
        countText(one.qemuNbd),
        ratioText(one.journalledRatio),
        ratioText(one.ordinaryRatio),
      ]),
    ),
  );
  options.print('\nProcessor time of the server for a request, µs\n');
  options.print(
    tableText(
      ['case', 'journal', 'no journal', 'qemu-nbd'],
      cases.map((one) => [
        one.case,
        countText(one.journalledProcessTimeUs),
        countText(one.ordinaryProcessTimeUs),
        countText(one.qemuNbdProcessTimeUs),
      ]),
    ),
  );
  return { rounds, cases };
}
