/** Whole images with a damaged journal of the draft of 2013: replayed for a reader, for a writer, and by the check. */
import { decodeDraftHeader, draftGeometry } from '@qcow2/codec/journal/draft-2013';
import { draftJournal } from '@qcow2/spec';
import { type DraftAreaPlace, DraftMutator } from '../draft-area.ts';
import { draftImages } from '../images.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { ImageProbe } from './image.ts';

interface Loaded {
  readonly probe: ImageProbe;
  readonly mutator: DraftMutator;
}

export class DraftImageTarget implements Target {
  readonly name = 'draft-image';
  readonly bases = ['draft', 'draft-wrapped', 'draft-backed'];
  readonly limits = { oneBytes: 4 << 20, allBytes: 256 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    for (const base of await draftImages()) {
      const probe = new ImageProbe(base);
      const mutator = new DraftMutator(probe.device, placeOf(base.bytes), [base.bytes.length]);
      this.#loaded.set(base.name, { probe, mutator });
    }
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.probe.device.reset();
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

function placeOf(bytes: Uint8Array): DraftAreaPlace {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const hostOffset = Number(view.getBigUint64(draftJournal.journalOffsetAt));
  const header = decodeDraftHeader(bytes.subarray(hostOffset), { hostOffset, clusterBytes: 65536 });
  return { hostOffset, ...draftGeometry(header) };
}
