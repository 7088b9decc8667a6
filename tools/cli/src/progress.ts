/**
 * How far a long command is: with `-p` a bar with rate and time left on a terminal, qemu-img's line elsewhere and under its name; with
 * `--progress=json` a line of JSON now and then, for programs.
 */
import type { ParsedArguments } from './arguments.ts';
import type { CommandContext } from './command.ts';
import { CommandFailure } from './failures.ts';
import { formatSize } from './sizes.ts';

/** Shows figures; when one is worth showing is its own affair. */
export interface ProgressView {
  /** @param isLast all is done */
  show(done: number, total: number, isLast: boolean): void;
  /** Nothing more comes, however far it was. */
  end(): void;
}

export class Progress {
  readonly #view: ProgressView | undefined;
  readonly #total: number;
  #done = 0;

  /** @param view undefined: nothing is shown. @param total what `advance` counts to, in bytes */
  constructor(view: ProgressView | undefined, total: number) {
    this.#view = view;
    this.#total = total;
    view?.show(0, total, false);
  }

  advance(by: number): void {
    this.#done += by;
    this.#view?.show(Math.min(this.#done, this.#total), this.#total, false);
  }

  /** So much is done by now, in all. */
  reach(done: number): void {
    this.advance(done - this.#done);
  }

  /** All is done. */
  complete(): void {
    this.#view?.show(this.#total, this.#total, true);
  }

  /** The line is done with, however far it came. */
  end(): void {
    this.#view?.end();
  }
}

export const progressOption = {
  name: 'progress',
  short: 'p',
  help: 'show how far it is; --progress=json in lines for programs',
  words: ['json'],
} as const;

/** What the arguments ask for; undefined: nothing. @param out where it goes */
export function progressView(
  args: ParsedArguments,
  context: CommandContext,
  out: (text: string) => void = context.out,
): ProgressView | undefined {
  const wish = args.value(progressOption.name);
  if (wish === undefined || args.has('quiet')) return undefined;
  if (wish === 'json') return new JsonLines(out);
  if (wish !== '') throw new CommandFailure(`--progress takes nothing or json, not '${wish}'`);
  if (context.terminal === undefined || context.programName === 'qemu-img') return new QemuLine(out);
  return new Bar(out, context.terminal.columns);
}

function percentOf(done: number, total: number): number {
  return total <= 0 ? 100 : Math.min(100, (done / total) * 100);
}

const stepPercent = 1;

/** Per cent over itself on one line, in steps of more than one; the end is shown again, as qemu-img does. */
export class QemuLine implements ProgressView {
  readonly #out: (text: string) => void;
  #shown = Number.NEGATIVE_INFINITY;

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  show(done: number, total: number, isLast: boolean): void {
    const isFirst = this.#shown === Number.NEGATIVE_INFINITY;
    const percent = isFirst && !isLast ? 0 : isLast ? 100 : percentOf(done, total);
    if (!isLast && percent <= this.#shown + stepPercent && !(percent === 100 && this.#shown < 100)) return;
    this.#shown = percent;
    this.#out(`    (${percent.toFixed(2)}/100%)\r`);
  }

  end(): void {
    this.#out('\n');
  }
}

/** Not more often than somebody looks. */
class Pace {
  readonly #now: () => number;
  readonly #periodMs: number;
  readonly #startedMs: number;
  #shownMs = Number.NEGATIVE_INFINITY;

  constructor(now: () => number, periodMs: number) {
    this.#now = now;
    this.#periodMs = periodMs;
    this.#startedMs = now();
  }

  get elapsedMs(): number {
    return this.#now() - this.#startedMs;
  }

  isDue(): boolean {
    const now = this.#now();
    if (now - this.#shownMs < this.#periodMs) return false;
    this.#shownMs = now;
    return true;
  }
}

/** `{"done":…,"total":…,"percent":…,"seconds":…}`, twice a second at most, and at the end. */
export class JsonLines implements ProgressView {
  readonly #out: (text: string) => void;
  readonly #pace: Pace;

  constructor(out: (text: string) => void, now: () => number = () => performance.now()) {
    this.#out = out;
    this.#pace = new Pace(now, 500);
  }

  show(done: number, total: number, isLast: boolean): void {
    if (!this.#pace.isDue() && !isLast) return;
    const percent = Number(percentOf(done, total).toFixed(2));
    const seconds = Number((this.#pace.elapsedMs / 1000).toFixed(3));
    this.#out(`${JSON.stringify({ done, total, percent, seconds })}\n`);
  }

  end(): void {
    // Each line is whole.
  }
}

const besideBar = 40;
/** What was done in the last seconds says more of the rest than the whole; before that it says nothing. */
const settledMs = 1000;

/** `[#####-----]  50.0 %  312 MiB/s  0:12 left`, over itself, ten times a second at most. */
export class Bar implements ProgressView {
  readonly #out: (text: string) => void;
  readonly #width: number;
  readonly #pace: Pace;

  constructor(out: (text: string) => void, columns: number, now: () => number = () => performance.now()) {
    this.#out = out;
    this.#width = Math.max(10, Math.min(50, columns - besideBar));
    this.#pace = new Pace(now, 100);
  }

  show(done: number, total: number, isLast: boolean): void {
    if (!this.#pace.isDue() && !isLast) return;
    const percent = percentOf(done, total);
    const full = Math.floor((percent / 100) * this.#width);
    const bar = `[${'#'.repeat(full)}${'-'.repeat(this.#width - full)}]`;
    const text = `${bar} ${percent.toFixed(1).padStart(5)} %${this.#rate(done, total, isLast)}`;
    // What was longer before is written over.
    this.#out(`\r${text}\u001b[K`);
  }

  #rate(done: number, total: number, isLast: boolean): string {
    const elapsedMs = this.#pace.elapsedMs;
    if (elapsedMs < settledMs || done === 0) return '';
    const perSecond = (done * 1000) / elapsedMs;
    const rate = `  ${formatSize(perSecond)}/s`;
    return isLast
      ? `${rate}  ${clock(elapsedMs)}`
      : `${rate}  ${clock(((total - done) * 1000) / perSecond)} left`;
  }

  end(): void {
    this.#out('\n');
  }
}

/** Minutes and seconds, and hours where there are some. */
function clock(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const tail = String(seconds % 60).padStart(2, '0');
  return hours === 0 ? `${minutes}:${tail}` : `${hours}:${String(minutes).padStart(2, '0')}:${tail}`;
}
