/**
 * What a recovery came to, range by range: gathered while the disk is gone through and copied, told at the end.
 *
 * Memory is bounded: neighbours of one word are one range, and of more ranges than `mostRanges` the rest is only counted.
 */
import type { RecoveredRange } from '@qcow2/driver';
import type { JsonValue } from './json-text.ts';

export type RangeWord = Pick<RecoveredRange, 'offset' | 'lengthBytes' | 'state' | 'why'>;

/** Beside 0, all found: something is lost; nothing is, and something was guessed. */
export const recoveryExitCodes = { lost: 2, guessed: 3 } as const;

const mostRanges = 200_000;
const mostLines = 1000;

export interface RecoveryFacts {
  readonly source: string;
  readonly target: string;
  readonly guesses: readonly string[];
  readonly without: readonly string[];
  readonly orphans: number;
}

export class RecoveryReport {
  readonly totals = { found: 0, guess: 0, lost: 0 };
  #ranges: RangeWord[] = [];
  readonly #late: RangeWord[] = [];
  #left = 0;

  /** In the order of the disk. */
  add(range: RangeWord): void {
    this.totals[range.state] += range.lengthBytes;
    this.#push(this.#ranges, range);
  }

  /** What showed only when it was read: part of a range that was added, or will be. In any order, each byte once. */
  lose(offset: number, lengthBytes: number, why: RangeWord['why']): void {
    this.#push(this.#late, { offset, lengthBytes, state: 'lost', why });
  }

  /** When everything is read. */
  finish(): void {
    const late = this.#late.sort((a, b) => a.offset - b.offset);
    const whole = this.#ranges;
    this.#ranges = [];
    let next = 0;
    for (const range of whole) {
      const end = range.offset + range.lengthBytes;
      let at = range.offset;
      for (; next < late.length && late[next]!.offset < end; next++) {
        const lost = late[next]!;
        const until = Math.min(end, lost.offset + lost.lengthBytes);
        if (lost.offset > at)
          this.#push(this.#ranges, { ...range, offset: at, lengthBytes: lost.offset - at });
        this.#push(this.#ranges, { ...lost, lengthBytes: until - lost.offset });
        this.totals[range.state] -= until - lost.offset;
        this.totals.lost += until - lost.offset;
        at = until;
      }
      if (at < end) this.#push(this.#ranges, { ...range, offset: at, lengthBytes: end - at });
    }
  }

  get ranges(): readonly RangeWord[] {
    return this.#ranges;
  }

  get exitCode(): number {
    if (this.totals.lost > 0) return recoveryExitCodes.lost;
    return this.totals.guess > 0 ? recoveryExitCodes.guessed : 0;
  }

  text({ source, target, guesses, without, orphans }: RecoveryFacts): string {
    const { found, guess, lost } = this.totals;
    const rest = this.#ranges.filter(({ state }) => state !== 'found');
    const lines = rest.slice(0, mostLines).map(lineOf);
    const more = rest.length - lines.length + this.#left;
    return [
      `'${source}' was recovered into '${target}':`,
      `    found: ${found} bytes`,
      `    found by a guess: ${guess} bytes`,
      `    lost, zeros in their place: ${lost} bytes`,
      ...guesses.map((text) => `guessed: ${text}`),
      ...without.map((text) => `left out: ${text}`),
      ...(orphans === 0 ? [] : [`clusters in use that nothing leads to: ${orphans}`]),
      ...lines,
      ...(more > 0 ? [`… and ${more} more`] : []),
      '',
    ].join('\n');
  }

  json({ source, target, guesses, without, orphans }: RecoveryFacts): { [key: string]: JsonValue } {
    return {
      filename: source,
      target,
      ...this.totals,
      guesses: [...guesses],
      'left-out': [...without],
      'unreferenced-clusters': orphans,
      ranges: this.#ranges.map(({ offset, lengthBytes, state, why }) => ({
        start: offset,
        length: lengthBytes,
        state,
        why: why.id,
      })),
      'ranges-left-out': this.#left,
    };
  }

  #push(list: RangeWord[], range: RangeWord): void {
    const last = list.at(-1);
    const follows = last !== undefined && last.offset + last.lengthBytes === range.offset;
    if (follows && last.state === range.state && last.why.id === range.why.id) {
      list[list.length - 1] = { ...last, lengthBytes: last.lengthBytes + range.lengthBytes };
    } else if (list.length < mostRanges) list.push(range);
    else this.#left++;
  }
}

function lineOf({ offset, lengthBytes, state, why }: RangeWord): string {
  return `${state}: ${lengthBytes} bytes at ${offset}: ${why.id}: ${why.text}`;
}
