/**
 * `bench compressed`: reading compressed images, beside qemu-nbd. Each gets a copy of one image that `qemu-img convert -c`
 * made of a disk of words and numbers, which takes a third of its size or so. The disk is many times what our server keeps
 * of decompressed clusters, so what is measured is decompression: in large reads one after the other, in reads of a whole
 * cluster at random, and in small reads at random, for each of which a cluster is decompressed.
 */
import { writeFileSync } from 'node:fs';
import { type Contender, freshCopy, ourContenders, qemuNbd, serveAll } from './contender.ts';
import type { FioLoad } from './fio.ts';
import { Ledger } from './ledger.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const types = ['zlib', 'zstd'] as const;
const mib = 2 ** 20;

const loads = [
  { name: 'in order, 1 MiB, depth 4', pattern: 'read', blockBytes: mib, queueDepth: 4 },
  { name: 'at random, 64 KiB, depth 8', pattern: 'randread', blockBytes: 65536, queueDepth: 8 },
  { name: 'at random, 4 KiB, depth 1', pattern: 'randread', blockBytes: 4096, queueDepth: 1 },
] as const;

export async function compressedReads(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const sizeBytes = (options.quick ? 32 : 256) * mib;
  const raw = workspace.path('words.raw');
  writeFileSync(raw, words(sizeBytes));
  const cases: object[] = [];
  const rows: string[][] = [];
  let rounds = 0;
  for (const type of types) {
    const image = workspace.path(`${type}.qcow2`);
    const how = ['-c', '-f', 'raw', '-O', 'qcow2', '-o', `compression_type=${type}`];
    await workspace.run('qemu-img', ['convert', ...how, raw, image], 300_000);
    const result = await measure(workspace, options, image, sizeBytes);
    rounds = result.rounds;
    for (const one of result.cases) {
      cases.push({ type, ...one });
      const { name, ours, qemu, ratio } = one;
      rows.push([`${type}, ${name}`, countText(ours), countText(qemu), ratioText(ratio)]);
    }
  }
  options.print(
    `\nReading compressed clusters of 64 KiB: MiB a second, median of ${rounds} rounds; ratios within a round [min–max]\n`,
  );
  options.print(tableText(['case', 'qcow2 serve', 'qemu-nbd', 'qcow2 / qemu'], rows));
  return { rounds, cases };
}

async function measure(workspace: Workspace, options: BenchOptions, image: string, sizeBytes: number) {
  const { ordinary } = ourContenders(options.command);
  const contenders: Contender[] = [ordinary, qemuNbd.qcow2];
  const warmUp: FioLoad = { ...loads[1], sizeBytes, seed: 99, limitMs: 400 };
  const servers = await serveAll(workspace, contenders, async (_, copy) => freshCopy(image, copy), warmUp);
  const ledger = new Ledger();
  const plan = { rounds: options.rounds, budgetMs: options.quick ? 8_000 : 40_000 };
  const rounds = await runRounds(plan, async (round) => {
    for (const { name, ...load } of loads) {
      const limitMs = options.quick ? 300 : 1000;
      for (const contender of rotated(contenders, round)) {
        const whole: FioLoad = { ...load, sizeBytes, seed: round + 1, limitMs };
        await ledger.measure(name, contender, servers.get(contender)!, workspace, whole);
      }
    }
  });
  for (const server of servers.values()) await server.stop();
  const cases = loads.map(({ name, blockBytes }) => ({
    name,
    ours: (ledger.rate(name, ordinary) * blockBytes) / mib,
    qemu: (ledger.rate(name, qemuNbd.qcow2) * blockBytes) / mib,
    ratio: ledger.ratio(name, ordinary, qemuNbd.qcow2),
  }));
  return { rounds, cases };
}

/** Words and numbers, the same in every run. */
function words(sizeBytes: number): Uint8Array {
  const vocabulary = [
    'cluster',
    'record',
    'ring',
    'slot',
    'table',
    'guest',
    'host',
    'flush',
    'offset',
    'write',
  ];
  const bytes = new Uint8Array(sizeBytes);
  const encoder = new TextEncoder();
  let state = 1;
  const next = (): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state >>> 8;
  };
  for (let at = 0; at < sizeBytes; ) {
    let line = '';
    while (line.length < 4096) {
      const word = vocabulary[next() % vocabulary.length]!;
      line += next() % 3 === 0 ? `${word} ${next()}\n` : `${word} `;
    }
    const piece = encoder.encode(line).subarray(0, sizeBytes - at);
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
