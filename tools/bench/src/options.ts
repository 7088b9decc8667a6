/** The command line of the benchmarks. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { ownCommand } from './contender.ts';
import { BenchmarkFailure } from './failure.ts';

export const benchmarkNames = [
  'nbd',
  'compressed',
  'flush-cost',
  'flush-rate',
  'check',
  'start',
  'convert',
  'benefit',
] as const;
export type BenchmarkName = (typeof benchmarkNames)[number];

export interface BenchOptions {
  readonly quick: boolean;
  readonly rounds: number;
  /** Where images are made; its disk is what is measured. */
  readonly folder: string | undefined;
  /** Our command; another build of it can be measured by naming it. */
  readonly command: string;
  /** `benefit`: only these cases; empty for all. */
  readonly only: readonly string[];
  /** `benefit`, `flush-cost`: leave these contenders out. */
  readonly without: readonly string[];
  /** `benefit`: put the figures into the documents. */
  readonly writeDocs: boolean;
  /** `benefit`: measure nothing; make the documents of the stored result again. */
  readonly stored: boolean;
  /** For people; the JSON is printed apart from it. */
  readonly print: (text: string) => void;
}

export const usage = `usage: pnpm bench [BENCHMARK] [--quick] [--rounds N] [--folder DIR] [--command FILE]
       pnpm bench:benefit [--only CASE]… [--without CONTENDER]… [--write-docs] [--quick] …
       pnpm bench:benefit --stored

  nbd          4 KiB random reads and writes over a unix socket, and flushed writes, beside qemu-nbd (default)
  compressed   reads of compressed images over a unix socket, beside qemu-nbd
  flush-cost   fdatasync calls and bytes written for a flushed write, by strace
  flush-rate   flushes a second of journal record shapes: physical and logical, 512 and 4096 byte blocks
  check        memory and time of a check, and of a repair, of a 16 TiB image that is all mapped, beside qemu-img
  start        time of "info" of a small image, beside a Node that does nothing and qemu-img
  convert      copies of a disk, raw, qcow2 and compressed, beside qemu-img
  benefit      what the journal is worth: every contender in every case, with docs/benefit.md made of it (--write-docs),
               or made again of what was stored (--stored)

The last line is the result as JSON.
`;

const defaultRounds: Record<BenchmarkName, number> = {
  nbd: 9,
  compressed: 7,
  'flush-cost': 1,
  'flush-rate': 9,
  check: 1,
  start: 9,
  convert: 5,
  benefit: 7,
};

export interface CommandLine {
  readonly name: BenchmarkName | 'help';
  readonly options: BenchOptions;
}

/** @throws BenchmarkFailure for what is not in the usage */
export function parseCommandLine(args: readonly string[], print: (text: string) => void): CommandLine {
  const { values, positionals } = parsed(args);
  const [name = 'nbd', ...more] = positionals;
  if (!isBenchmark(name) || more.length > 0)
    throw new BenchmarkFailure(`no benchmark: ${positionals.join(' ')}`);
  const quick = values.quick ?? false;
  const rounds = values.rounds === undefined ? (quick ? 3 : defaultRounds[name]) : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new BenchmarkFailure(`not a number of rounds: ${values.rounds}`);
  const options = {
    quick,
    rounds,
    folder: values.folder,
    command: resolve(values.command ?? ownCommand),
    only: values.only ?? [],
    without: values.without ?? [],
    writeDocs: values['write-docs'] ?? false,
    stored: values.stored ?? false,
    print,
  };
  return { name: values.help === true ? 'help' : name, options };
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        quick: { type: 'boolean' },
        rounds: { type: 'string' },
        folder: { type: 'string' },
        command: { type: 'string' },
        only: { type: 'string', multiple: true },
        without: { type: 'string', multiple: true },
        'write-docs': { type: 'boolean' },
        stored: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (cause) {
    throw new BenchmarkFailure(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function isBenchmark(name: string): name is BenchmarkName {
  return (benchmarkNames as readonly string[]).includes(name);
}
