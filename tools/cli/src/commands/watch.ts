/**
 * `watch`: what a running `serve` does, from one interval to the next. It asks through the socket that the server was given for it
 * (`--watch-socket`), takes no client's place, and sees nothing of the disk.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { figuresBetween } from '../watch/figures.ts';
import type { WatchSample } from '../watch/sample.ts';
import { jsonView, lineView, screenView, type WatchView } from '../watch/view.ts';
import { Watcher } from '../watch/watcher.ts';

export const watch: Command = {
  operands: 'SOCKET',
  options: [
    { name: 'interval', short: 'i', argument: 'SECONDS', help: 'from one look to the next (default 1)' },
    { name: 'count', short: 'c', argument: 'N', help: 'end after so many intervals' },
    outputOption,
  ],
  notes:
    'On a terminal one screen that is drawn anew, elsewhere a line for each interval; with --output=json a line of JSON. Rates are those of the\n' +
    'interval. Latency is the time from taking a request off the socket to handing its reply back. Ends with the server, with exit code 0.\n' +
    'Examples:\n' +
    '  qcow2 serve -t -k /tmp/disk.sock --watch-socket /tmp/disk.watch disk.qcow2 &\n' +
    '  qcow2 watch /tmp/disk.watch\n' +
    '  qcow2 watch --interval 10 --count 6 --output=json /tmp/disk.watch',
  run: runWatch,
};

const longestIntervalSeconds = 24 * 60 * 60;

async function runWatch(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [path, ...extra] = args.operands;
  if (path === undefined || extra.length > 0) throw usageFailure('Expecting one socket');
  const intervalMs = intervalOf(args) * 1000;
  const count = countOf(args);
  const view = viewOf(args, context);
  const { stop } = context;
  const watcher = await Watcher.connect(path);
  try {
    let before = await watcher.sample();
    for (let shown = 0; shown < count && before !== undefined; shown++) {
      if (!(await passed(intervalMs, stop))) return 0;
      const now: WatchSample | undefined = await watcher.sample();
      if (now === undefined) break;
      context.out(view(figuresBetween(before, now), now));
      await context.drained?.();
      before = now;
    }
    return 0;
  } finally {
    watcher.close();
  }
}

/** @returns false where the program is asked to end before that */
async function passed(milliseconds: number, stop: AbortSignal): Promise<boolean> {
  try {
    await sleep(milliseconds, undefined, { signal: stop });
    return true;
  } catch {
    return false;
  }
}

function viewOf(args: ParsedArguments, context: CommandContext): WatchView {
  if (outputFormat(args) === 'json') return jsonView;
  return context.terminal === undefined ? lineView : screenView;
}

function intervalOf(args: ParsedArguments): number {
  const text = args.value('interval') ?? '1';
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (value > 0 && value <= longestIntervalSeconds) return value;
  throw new CommandFailure(
    `--interval: '${text}' is no number of seconds from 0 to ${longestIntervalSeconds}`,
  );
}

function countOf(args: ParsedArguments): number {
  const text = args.value('count');
  if (text === undefined) return Number.POSITIVE_INFINITY;
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new CommandFailure(`--count: '${text}' is no number of intervals`);
}
