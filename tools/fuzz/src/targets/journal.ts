/** Whole images with a damaged journal: replayed for a reader, for a writer, and by the check. */
import { journalledImages } from '../images.ts';
import { AreaMutator } from '../journal-area.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { ImageProbe } from './image.ts';
import { areaOf } from './log.ts';

interface Loaded {
  readonly probe: ImageProbe;
  readonly mutator: AreaMutator;
}

export class JournalTarget implements Target {
  readonly name = 'journal';
  readonly bases = ['short', 'wrapped', 'large-blocks', 'backed', 'clean'];
  readonly limits = { oneBytes: 4 << 20, allBytes: 256 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    for (const base of await journalledImages()) {
      const probe = new ImageProbe(base);
      const mutator = new AreaMutator(probe.device, areaOf(base.bytes), [base.bytes.length, 65536]);
      this.#loaded.set(base.name, { probe, mutator });
    }
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.probe.device.reset();
    this.#now.mutator.reset();
  }

  mutate(random: Random): void {
    this.#now!.mutator.mutate(random);
  }

  seal(random: Random): void {
    this.#now!.mutator.seal(random);
  }

  async run(variant: number, verdict: Verdict): Promise<void> {
    await this.#now!.probe.run(variant, verdict);
  }
}
