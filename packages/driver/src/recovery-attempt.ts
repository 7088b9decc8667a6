/**
 * Ways to see a damaged image: with its own header, or with one that was put together; without what it does not open with. The best is the one with
 * the fewest contradictions.
 */
import { type BlockDevice, OverlayDevice, run } from '@qcow2/block-device';
import { encodeHeader, type Qcow2Header } from '@qcow2/codec';
import {
  autoclearFeatures,
  FormatError,
  headerExtensionTypes,
  incompatibleFeatures,
  Qcow2Error,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { hasOtherJournals, isJournalDirty, unbindJournal } from './journal-binding.ts';
import { openParts } from './open.ts';
import type { ImageParts } from './parts.ts';
import { type FoundHeader, guessHeaders, type HeaderHints, headerAsItIs } from './recovery-header.ts';
import { type Survey, surveyMapping } from './recovery-survey.ts';
import type { Verdict } from './recovery-verdicts.ts';
import type { SalvageDevice } from './salvage-device.ts';

/** The image as seen with a header, and changes laid over the file. */
export interface Attempt {
  readonly found: FoundHeader;
  /** As the file has it. */
  readonly isOwn: boolean;
  readonly without: readonly string[];
  readonly patches: ReadonlyMap<number, Uint8Array>;
  readonly parts: ImageParts;
  readonly survey: Survey;
  /** Parts of the disk by L1 entry, and guest clusters, that are there by a guess. */
  readonly slots: ReadonlyMap<number, Verdict>;
  readonly clusters: ReadonlyMap<number, Verdict>;
}

/** @throws BAD_FIELD where nothing is a header; UNSUPPORTED_FEATURE */
export async function bestAttempt(
  file: SalvageDevice,
  options: HeaderHints & { readonly guess?: boolean },
): Promise<Attempt> {
  const own = await headerAsItIs(file);
  const hinted = options.clusterBytes !== undefined || options.sizeBytes !== undefined;
  let best: Attempt | undefined;
  if (own !== undefined && !hinted) {
    refuseUnserved(own);
    best = await attemptWith(
      file,
      { header: own, guesses: [], withoutRefcounts: false, backingUnknown: namesNothing(own) },
      true,
    );
    if (best !== undefined && !isSuspicious(best.survey)) return await withWholeSize(file, best);
  }
  for (const found of await guessHeaders(file, options)) {
    const other = await attemptWith(file, found, false);
    if (other === undefined) continue;
    if (best === undefined || badness(other.survey) * 2 < badness(best.survey)) best = other;
  }
  if (best !== undefined && (best.isOwn || options.guess === true || !isSuspicious(best.survey))) return best;
  throw new FormatError(
    'BAD_FIELD',
    'neither the header nor a scan of the file leads to a mapping that can be believed',
    {
      field: 'l1Offset',
    },
  );
}

/** A format of a backing file, and no file: its name is gone. */
function namesNothing({ backingFileName, extensions }: Qcow2Header): boolean {
  return (
    (backingFileName ?? '') === '' &&
    extensions.some(({ type }) => type === headerExtensionTypes.backingFormat)
  );
}

function refuseUnserved({ cryptMethod, incompatibleFeatures: mask }: Qcow2Header): void {
  const isExternal = (mask & incompatibleFeatures.externalDataFile) !== 0n;
  if (cryptMethod === 0 && !isExternal) return;
  const feature = isExternal ? 'an external data file' : 'encryption';
  throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `recovery of an image with ${feature}`, {
    feature,
  });
}

/** How much contradicts itself. */
export function badness({ orphanCount, doubtCount, badSlots, goodSlots }: Survey): number {
  return orphanCount + doubtCount + badSlots.length * 16 + (goodSlots === 0 ? 4 : 0);
}

/** So much is wrong that the header may be. */
function isSuspicious(survey: Survey): boolean {
  const { orphanCount, doubtCount, mappedCount, goodSlots, badSlots, refcountsAreWrong } = survey;
  if (goodSlots === 0 && (orphanCount > 0 || badSlots.length > 0)) return true;
  return (
    orphanCount > Math.max(4, mappedCount / 4) ||
    doubtCount > Math.max(4, mappedCount / 2) ||
    refcountsAreWrong
  );
}

/** A header whose disk ends before what the tables map: it is larger. */
async function withWholeSize(file: SalvageDevice, attempt: Attempt): Promise<Attempt> {
  const { header } = attempt.found;
  const { mappedEndBytes } = attempt.survey;
  const clusterBytes = 2 ** header.clusterBits;
  if (header.snapshotCount > 0 || mappedEndBytes <= Math.ceil(header.sizeBytes / clusterBytes) * clusterBytes)
    return attempt;
  const guesses = [`a disk of ${mappedEndBytes} bytes: the tables map so much`];
  const found = { ...attempt.found, header: { ...header, sizeBytes: mappedEndBytes }, guesses };
  return (await attemptWith(file, found, false)) ?? attempt;
}

type Relaxation = readonly [string, (header: Qcow2Header) => boolean];

/** What is left out where the image does not open with it. False: there is nothing of the kind. */
const relaxations: readonly Relaxation[] = [
  [
    'bitmaps',
    (header) => {
      const has = (header.autoclearFeatures & autoclearFeatures.bitmaps) !== 0n;
      header.autoclearFeatures &= ~autoclearFeatures.bitmaps;
      return has;
    },
  ],
  [
    'the journal',
    (header) => {
      const has = isJournalDirty(header) || header.draftJournal !== undefined || hasOtherJournals(header);
      delete header.draftJournal;
      unbindJournal(header);
      header.incompatibleFeatures &=
        incompatibleFeatures.dirty | incompatibleFeatures.compressionType | incompatibleFeatures.extendedL2;
      return has;
    },
  ],
  [
    'snapshots',
    (header) => {
      const has = header.snapshotCount > 0;
      header.snapshotCount = 0;
      header.snapshotsOffset = 0;
      return has;
    },
  ],
];

async function attemptWith(
  file: SalvageDevice,
  found: FoundHeader,
  isOwn: boolean,
): Promise<Attempt | undefined> {
  const header = { ...found.header };
  const without: string[] = [];
  for (let step = 0; ; step++) {
    const patches = new Map<number, Uint8Array>();
    try {
      if (!isOwn || without.length > 0) patches.set(0, encodeHeader(header));
      const seen = await look(file, patches, found);
      return {
        found: { ...found, header },
        isOwn,
        without,
        patches,
        ...seen,
        slots: new Map(),
        clusters: new Map(),
      };
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
    }
    const relaxation = relaxations[step];
    if (relaxation === undefined) return undefined;
    if (relaxation[1](header)) without.push(relaxation[0]);
  }
}

/** Open, and survey. @throws Qcow2Error where the image can not be opened so */
export async function look(
  file: SalvageDevice,
  patches: ReadonlyMap<number, Uint8Array>,
  { withoutRefcounts }: FoundHeader,
): Promise<Pick<Attempt, 'parts' | 'survey'>> {
  const device = await patched(file, patches);
  const parts = await run(openParts(device, { readOnly: true, backing: 'none' }));
  return { parts, survey: await surveyMapping(parts, file, { withoutRefcounts }) };
}

/** The file, with changes laid over it. */
export async function patched(
  file: BlockDevice,
  patches: ReadonlyMap<number, Uint8Array>,
): Promise<BlockDevice> {
  if (patches.size === 0) return file;
  const overlay = new OverlayDevice(file, { maxChangedBytes: 2 ** 28 });
  for (const [at, bytes] of patches) await overlay.write(at, bytes);
  return overlay;
}
