/**
 * Opening an image for a repair: what it must not believe, and what it must not clear. The rest is as `open.ts` has it.
 */
import type { Task } from '@qcow2/block-device';
import { autoclearFeatures, FormatError, UnsupportedFeatureError } from '@qcow2/spec';
import { isReferenced } from './draft-journal.ts';
import { areaIsOurs, boundJournal, isJournalValid } from './journal-binding.ts';
import type { ImageParts } from './parts.ts';
import { ReferenceWalk } from './reference-walk.ts';

/** Whatever the refcounts say, what is in use stands in the file, or where the log has it. */
export function* allocateBehindFile(parts: ImageParts): Task<void> {
  const { core, allocator } = parts;
  let end = Math.ceil(core.device.sizeBytes / core.clusterBytes);
  const reference = (_kind: unknown, hostOffset: number, lengthBytes: number): boolean => {
    if (!core.isInside(hostOffset, lengthBytes)) return false;
    end = Math.max(end, Math.ceil((hostOffset + lengthBytes) / core.clusterBytes));
    return true;
  };
  yield* new ReferenceWalk(parts, { reference, damaged: () => undefined }).walk();
  allocator.allocateBehind(end);
}

/**
 * Whether a dirty journal is the image's, for a repair: nothing refers into its area. Refcounts are what is to be repaired,
 * and may not even be read.
 */
export function* isOursByReferences(
  { core, snapshots }: ImageParts,
  area: { hostOffset: number; lengthBytes: number },
): Task<boolean> {
  return !(yield* isReferenced(core, snapshots, area));
}

/** What the next opening for writing will ask of a journal: so a crash leaves no dirty image that only a repair opens. */
function* countsAsOurs(
  { core, allocator }: ImageParts,
  area: { hostOffset: number; lengthBytes: number },
): Task<boolean> {
  try {
    return yield* areaIsOurs(core, allocator, area);
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

/**
 * A clean image, for a repair. Its journal is used where it is whole, nothing refers into the area, and its clusters count as they
 * have to; else it is not valid any more, and the next opening for writing makes another.
 */
export function* prepareForRepair(parts: ImageParts): Task<void> {
  const { core } = parts;
  const { header } = core;
  parts.useOrderedWrites();
  const bound = boundJournal(header);
  const ours =
    bound !== undefined &&
    isJournalValid(header) &&
    (yield* isOursByReferences(parts, bound)) &&
    (yield* countsAsOurs(parts, bound));
  const log = ours ? yield* tryRecover(parts, bound) : undefined;
  // What a repair changes is what the bitmaps never spoke of.
  const kept = autoclearFeatures.bitmaps | autoclearFeatures.rawExternalData;
  yield* keepAutoclear(parts, log === undefined ? kept : kept | autoclearFeatures.journalValid);
  if (bound !== undefined && log !== undefined) parts.useJournal(bound, log, false);
}

/** A clean image needs nothing of its journal: where the area is damaged, a new one is made. */
export function* tryRecover(parts: ImageParts, area: { hostOffset: number; lengthBytes: number }) {
  try {
    const log = yield* parts.readCleanLog(area);
    return log.records.length === 0 ? log : undefined;
  } catch (error) {
    // Damaged, or of a version that is not known [JRN-BIND-022].
    if (error instanceof FormatError || error instanceof UnsupportedFeatureError) return undefined;
    throw error;
  }
}

/** Clear the autoclear bits of features that are not known [FEA-012]. */
export function* keepAutoclear(parts: ImageParts, known: bigint): Task<void> {
  const { header } = parts.core;
  const kept = header.autoclearFeatures & known;
  if (kept === header.autoclearFeatures) return;
  header.autoclearFeatures = kept;
  yield* parts.writeHeader();
}
