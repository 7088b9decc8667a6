/**
 * `bench flush-rate`: how many flushes a second each shape of journal record allows (ADR 5): physical and
 * logical, blocks of 512 and of 4096 bytes, by a synthetic writer that makes the same system calls as a
 * journal of that shape and does nothing else (`commit-model.ts`).
 *
 * Beside them two references: records alone, without any write-back, into a ring that was written before; and what
 * a raw file pays, a page into a file that grows. One process, one thread, write and fdatasync on it; a
 * file for each shape; they take turns every few flushes, in rotated order.
 */
import { closeSync, fdatasyncSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import {
  CommitModel,
  type CommitModelOptions,
  type CommitStep,
  clusterBytes,
  pageBytes,
} from './commit-model.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { median, percentile, ratioOf, rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const mebibyte = 2 ** 20;
const ringBytes = 4 * mebibyte;
const guestClusters = 65_536;
const layout = {
  ringOffset: mebibyte,
  slotOffset: 0,
  l2Offset: 5 * mebibyte,
  refcountOffset: 6 * mebibyte,
  dataOffset: 8 * mebibyte,
};

interface Shape {
  readonly name: string;
  /** A writer for one run: what each flush writes. */
  readonly begin: () => (guestPage: number, commit: number) => CommitStep;
}

function modelShape(design: CommitModelOptions['design'], blockBytes: number): Shape {
  const begin = (): Shape['begin'] extends () => infer W ? W : never => {
    const model = new CommitModel({ design, blockBytes, ringBytes, ...layout });
    return (guestPage) => model.commit(guestPage);
  };
  return { name: `${design}, ${blockBytes} B`, begin };
}

const logical4096 = modelShape('logical', 4096);
const logical512 = modelShape('logical', 512);
const physical4096 = modelShape('physical', 4096);
const physical512 = modelShape('physical', 512);
const ringOnly: Shape = {
  name: 'records alone, 8 KiB',
  begin: () => () => ({ recordBytes: 8192, inPlace: [] }),
};
const growingFile: Shape = {
  name: 'no journal: a file that grows',
  begin: () => (_, commit) => ({
    recordBytes: 0,
    inPlace: [{ offset: layout.dataOffset + commit * clusterBytes, lengthBytes: pageBytes }],
  }),
};
const shapes = [logical4096, logical512, physical4096, physical512, ringOnly, growingFile];

/** Which page the guest writes at each flush. */
const workloads = [
  { name: 'random', page: (_: number, random: () => number) => Math.floor(random() * guestClusters * 16) },
  { name: 'sequential', page: (commit: number) => commit },
  {
    name: 'hot, 64 clusters',
    page: (_: number, random: () => number) => Math.floor(random() * 64 * 16),
  },
] as const;

/** A round is this many slices of each shape, by turns: what slows the machine down meets all of them. */
const slicesPerRound = 8;

export async function flushRate(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const perSlice = options.quick ? 15 : 50;
  const results: object[] = [];
  for (const workload of workloads) {
    const writers = shapes.map((shape) => new ShapeWriter(shape, workspace.path('shape')));
    const plan = { rounds: options.rounds, budgetMs: options.quick ? 11_000 : 70_000 };
    const random = generator(1);
    let commits = 0;
    const rounds = await runRounds(plan, (round) => {
      for (const writer of writers) writer.beginRound();
      for (let slice = 0; slice < slicesPerRound; slice++) {
        const pages = Array.from({ length: perSlice }, () => workload.page(commits++, random));
        for (const writer of rotated(writers, round + slice)) writer.run(pages);
      }
    });
    for (const writer of writers) writer.close();
    results.push(...report(options, workload.name, rounds, writers));
  }
  return { commitsPerRound: perSlice * slicesPerRound, ringBytes, results };
}

function report(options: BenchOptions, workload: string, rounds: number, writers: readonly ShapeWriter[]) {
  const reference = writers.find(({ shape }) => shape === physical4096)!;
  const rows = writers.map((writer) => ({
    workload,
    shape: writer.shape.name,
    flushesPerSecond: median(writer.rates()),
    p50Us: percentile(writer.latenciesMs, 0.5) * 1000,
    p99Us: percentile(writer.latenciesMs, 0.99) * 1000,
    bytesPerFlush: writer.bytesPerFlush,
    ratio: ratioOf(writer.rates(), reference.rates()),
  }));
  options.print(`\n4 KiB writes, ${workload}, each flushed: ${rounds} rounds\n`);
  const head = ['shape', 'flushes/s', 'p50 µs', 'p99 µs', 'bytes', 'to physical, 4096 B'];
  options.print(
    tableText(
      head,
      rows.map((row) => [
        row.shape,
        countText(row.flushesPerSecond),
        countText(row.p50Us),
        countText(row.p99Us),
        countText(row.bytesPerFlush),
        ratioText(row.ratio),
      ]),
    ),
  );
  return rows;
}

/** One file, and what a journal of the shape has done to it so far. */
class ShapeWriter {
  readonly shape: Shape;
  readonly latenciesMs: number[] = [];
  readonly #file: string;
  readonly #fd: number;
  readonly #bytes = new Uint8Array(mebibyte).fill(0xa5);
  readonly #step: ReturnType<Shape['begin']>;
  /** Time and flushes of each round. */
  readonly #rounds: { ms: number; commits: number }[] = [];
  #head = 0;
  #writtenBytes = 0;

  constructor(shape: Shape, file: string) {
    this.shape = shape;
    this.#file = file;
    this.#step = shape.begin();
    this.#fd = openSync(file, 'w+');
    // Slots, ring and tables are written once before, as a journal's are when it is made.
    for (let at = 0; at < layout.dataOffset; at += mebibyte)
      writeSync(this.#fd, this.#bytes, 0, mebibyte, at);
    fsyncSync(this.#fd);
  }

  get bytesPerFlush(): number {
    return this.#writtenBytes / this.latenciesMs.length;
  }

  rates(): number[] {
    return this.#rounds.map(({ ms, commits }) => (commits / ms) * 1000);
  }

  beginRound(): void {
    this.#rounds.push({ ms: 0, commits: 0 });
  }

  run(pages: readonly number[]): void {
    const round = this.#rounds.at(-1)!;
    for (const page of pages) {
      const begun = performance.now();
      this.#commit(page);
      const ms = performance.now() - begun;
      this.latenciesMs.push(ms);
      round.ms += ms;
      round.commits++;
    }
  }

  close(): void {
    closeSync(this.#fd);
    rmSync(this.#file);
  }

  #commit(page: number): void {
    const { recordBytes, inPlace } = this.#step(page, this.latenciesMs.length);
    if (this.#head + recordBytes > ringBytes) this.#head = 0;
    if (recordBytes > 0) this.#write(layout.ringOffset + this.#head, recordBytes);
    this.#head += recordBytes;
    for (const { offset, lengthBytes } of inPlace) this.#write(offset, lengthBytes);
    fdatasyncSync(this.#fd);
  }

  #write(offset: number, lengthBytes: number): void {
    this.#writtenBytes += writeSync(this.#fd, this.#bytes, 0, lengthBytes, offset);
  }
}

/** Numbers from 0 to below 1, the same for the same seed. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
  };
}
