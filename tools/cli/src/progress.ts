/** `-p`: how far a long command is, in per cent, as qemu-img prints it: over itself on one line, in steps of more than one. */
const stepPercent = 1;

export class Progress {
  readonly #out: ((text: string) => void) | undefined;
  readonly #total: number;
  #done = 0;
  #shown = Number.NEGATIVE_INFINITY;

  /** @param out undefined: nothing is shown. @param total what `advance` counts to */
  constructor(out: ((text: string) => void) | undefined, total: number) {
    this.#out = out;
    this.#total = total;
    this.#show(0);
  }

  advance(by: number): void {
    this.#done += by;
    const percent = this.#total <= 0 ? 100 : Math.min(100, (this.#done / this.#total) * 100);
    if (percent > this.#shown + stepPercent || (percent === 100 && this.#shown < 100)) this.#show(percent);
  }

  /** All is done: the last figure is 100, and it is shown again, as qemu-img does. */
  complete(): void {
    this.#show(100);
  }

  /** The line is done with, however far it came. */
  end(): void {
    this.#out?.('\n');
  }

  #show(percent: number): void {
    this.#shown = percent;
    this.#out?.(`    (${percent.toFixed(2)}/100%)\r`);
  }
}

export const progressOption = { name: 'progress', short: 'p', help: 'show how far it is' } as const;
