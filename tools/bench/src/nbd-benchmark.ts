/**
 * `bench nbd`: our server beside qemu-nbd, over a unix socket, with fio.
 *
 * Two tables. The first is the hot path: 4 KiB random reads and writes on an image whose every cluster is
 * written, at queue depth 1 and 32, nothing flushed. The second is durability: 4 KiB random writes into an empty
 * image, each flushed.
 */
import {
  type Contender,
  filledImage,
  freshCopy,
  ourContenders,
  qemuNbd,
  type Served,
  serveImage,
  syncFile,
} from './contender.ts';
import { type FioLoad, type FioResult, runFio } from './fio.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { median, ratioOf, rotated, type Spread } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

interface Scale {
  readonly filledBytes: number;
  readonly emptyBytes: number;
  readonly hotMs: number;
  readonly flushedWrites: number;
  readonly flushedLimitMs: number;
  /** For each of the two tables. */
  readonly budgetMs: number;
}

const fullScale: Scale = {
  filledBytes: 256 * 2 ** 20,
  emptyBytes: 4 * 2 ** 30,
  hotMs: 800,
  flushedWrites: 400,
  flushedLimitMs: 5000,
  budgetMs: 100_000,
};
const quickScale: Scale = {
  filledBytes: 64 * 2 ** 20,
  emptyBytes: 4 * 2 ** 30,
  hotMs: 250,
  flushedWrites: 150,
  flushedLimitMs: 2000,
  budgetMs: 10_000,
};

const blockBytes = 4096;

const hotCases = [
  { name: 'random read 4 KiB, depth 1', pattern: 'randread', queueDepth: 1 },
  { name: 'random read 4 KiB, depth 32', pattern: 'randread', queueDepth: 32 },
  { name: 'random write 4 KiB, depth 1', pattern: 'randwrite', queueDepth: 1 },
  { name: 'random write 4 KiB, depth 32', pattern: 'randwrite', queueDepth: 32 },
] as const;

interface Measured extends FioResult {
  /** Processor time of the server for each request, flushes included. */
  readonly processTimeUs: number;
}

/** Results by case, contender and round. */
class Ledger {
  readonly #results = new Map<string, Measured[]>();

  /** Load a server and keep what came of it. */
  async measure(
    what: string,
    who: Contender,
    server: Served,
    workspace: Workspace,
    load: FioLoad,
  ): Promise<void> {
    const before = server.processTimeUs();
    const result = await runFio(workspace, server.socket, load);
    const processTimeUs = (server.processTimeUs() - before) / result.requests;
    const key = `${what}|${who.name}`;
    const list = this.#results.get(key) ?? [];
    this.#results.set(key, [...list, { ...result, processTimeUs }]);
  }

  series(what: string, who: Contender, pick: (result: Measured) => number): number[] {
    return (this.#results.get(`${what}|${who.name}`) ?? []).map(pick);
  }

  rates(what: string, who: Contender): number[] {
    return this.series(what, who, (result) => result.requestsPerSecond);
  }

  ratio(what: string, ours: Contender, theirs: Contender): Spread {
    return ratioOf(this.rates(what, ours), this.rates(what, theirs));
  }

  processTime(what: string, who: Contender): number {
    return median(this.series(what, who, (result) => result.processTimeUs));
  }
}

/** Not measured: a server that has just started compiles, and fills its caches. */
const hotWarmUp: FioLoad = {
  pattern: 'randread',
  queueDepth: 32,
  blockBytes,
  sizeBytes: quickScale.filledBytes,
  seed: 99,
  limitMs: 400,
};
const flushedWarmUp: FioLoad = {
  pattern: 'randwrite',
  queueDepth: 1,
  blockBytes,
  sizeBytes: fullScale.emptyBytes,
  seed: 99,
  limitMs: 1500,
  requests: 400,
  flushEvery: 1,
};

/** All at once: a round is then short, and what slows the machine down meets all of them. */
async function serveAll(
  workspace: Workspace,
  contenders: readonly Contender[],
  warmUp: FioLoad,
  make: (contender: Contender, image: string) => Promise<void>,
): Promise<Map<Contender, Served>> {
  const servers = new Map<Contender, Served>();
  for (const contender of contenders) {
    const image = workspace.path('image');
    await make(contender, image);
    syncFile(image);
    const server = await serveImage(workspace, contender, image);
    servers.set(contender, server);
    await runFio(workspace, server.socket, warmUp);
  }
  return servers;
}

export async function nbdBenchmark(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const scale = options.quick ? quickScale : fullScale;
  const hot = await hotPath(workspace, options, scale);
  const flushed = await flushedWrites(workspace, options, scale);
  return { ...hot, ...flushed };
}

async function hotPath(workspace: Workspace, options: BenchOptions, scale: Scale): Promise<object> {
  const { journalled, ordinary } = ourContenders(options.command);
  const contenders = [journalled, ordinary, qemuNbd.qcow2];
  const filled = await filledImage(workspace, scale.filledBytes);
  const servers = await serveAll(workspace, contenders, hotWarmUp, async (contender, image) => {
    freshCopy(filled, image);
    await contender.adopt?.(workspace, image);
  });
  const ledger = new Ledger();
  const plan = { rounds: options.rounds, budgetMs: scale.budgetMs };
  const rounds = await runRounds(plan, async (round) => {
    for (const { name, pattern, queueDepth } of hotCases) {
      const load: FioLoad = {
        pattern,
        queueDepth,
        blockBytes,
        sizeBytes: scale.filledBytes,
        seed: round + 1,
        limitMs: scale.hotMs,
      };
      for (const contender of rotated(contenders, round)) {
        await ledger.measure(name, contender, servers.get(contender)!, workspace, load);
      }
    }
  });
  for (const server of servers.values()) await server.stop();
  const cases = hotCases.map(({ name }) => ({
    case: name,
    journalled: median(ledger.rates(name, journalled)),
    ordinary: median(ledger.rates(name, ordinary)),
    qemuNbd: median(ledger.rates(name, qemuNbd.qcow2)),
    journalledRatio: ledger.ratio(name, journalled, qemuNbd.qcow2),
    ordinaryRatio: ledger.ratio(name, ordinary, qemuNbd.qcow2),
    journalledProcessTimeUs: ledger.processTime(name, journalled),
    ordinaryProcessTimeUs: ledger.processTime(name, ordinary),
    qemuNbdProcessTimeUs: ledger.processTime(name, qemuNbd.qcow2),
  }));
  options.print(
    `\nRequests a second, ${rounds} rounds; ratios to qemu-nbd within a round, median [min–max]\n`,
  );
  const head = ['case', 'journal', 'no journal', 'qemu-nbd', 'journal / qemu', 'no journal / qemu'];
  const rows = cases.map((one) => [
    one.case,
    countText(one.journalled),
    countText(one.ordinary),
    countText(one.qemuNbd),
    ratioText(one.journalledRatio),
    ratioText(one.ordinaryRatio),
  ]);
  options.print(tableText(head, rows));
  options.print('\nProcessor time of the server for a request, µs\n');
  const times = cases.map((one) => [
    one.case,
    countText(one.journalledProcessTimeUs),
    countText(one.ordinaryProcessTimeUs),
    countText(one.qemuNbdProcessTimeUs),
  ]);
  options.print(tableText(['case', 'journal', 'no journal', 'qemu-nbd'], times));
  return { hotRounds: rounds, hot: cases };
}

async function flushedWrites(workspace: Workspace, options: BenchOptions, scale: Scale): Promise<object> {
  const { journalled, ordinary } = ourContenders(options.command);
  const contenders = [journalled, ordinary, qemuNbd.qcow2, qemuNbd.lazy, qemuNbd.raw];
  const ledger = new Ledger();
  const what = 'flushed';
  const servers = await serveAll(workspace, contenders, flushedWarmUp, (contender, image) =>
    contender.create(workspace, image, scale.emptyBytes),
  );
  const plan = { rounds: options.rounds, budgetMs: scale.budgetMs };
  const rounds = await runRounds(plan, async (round) => {
    const load: FioLoad = {
      pattern: 'randwrite',
      queueDepth: 1,
      blockBytes,
      sizeBytes: scale.emptyBytes,
      seed: round + 1,
      limitMs: scale.flushedLimitMs,
      requests: scale.flushedWrites,
      flushEvery: 1,
    };
    for (const contender of rotated(contenders, round)) {
      await ledger.measure(what, contender, servers.get(contender)!, workspace, load);
    }
  });
  for (const server of servers.values()) await server.stop();
  const results = contenders.map((contender) => ({
    contender: contender.name,
    flushesPerSecond: median(ledger.rates(what, contender)),
    flushP50Us: median(ledger.series(what, contender, (result) => result.flushLatencyUs.p50)),
    flushP99Us: median(ledger.series(what, contender, (result) => result.flushLatencyUs.p99)),
    processTimeUs: ledger.processTime(what, contender),
    journalledRatio: ledger.ratio(what, journalled, contender),
  }));
  options.print(
    `\nRandom 4 KiB allocating writes, each flushed (${scale.flushedWrites} a round), ${rounds} rounds\n`,
  );
  const head = ['server', 'flushes/s', 'p50 µs', 'p99 µs', 'processor µs', 'journal / this one'];
  const rows = results.map((one) => [
    one.contender,
    countText(one.flushesPerSecond),
    countText(one.flushP50Us),
    countText(one.flushP99Us),
    countText(one.processTimeUs),
    ratioText(one.journalledRatio),
  ]);
  options.print(tableText(head, rows));
  return { flushedRounds: rounds, flushed: results };
}
