/**
 * What the header and the two slots of a journal say, for `info` and `journal info`: without opening the
 * image, hence without replaying anything. What the live log holds, only reading it tells.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readPadded, run } from '@qcow2/block-device';
import {
  type BoundJournal,
  type DraftBinding,
  decodeJournalExtension,
  decodeSlot,
  findHeaderExtension,
  type JournalSlot,
  journalGeometry,
  type Qcow2Header,
} from '@qcow2/codec';
import { draftReplayCount } from '@qcow2/codec/journal/draft-2013';
import { readDraftArea } from '@qcow2/journal';
import {
  autoclearFeatures,
  headerExtensionTypes,
  hostOffset,
  incompatibleFeatures,
  journalV1Limits,
  Qcow2Error,
} from '@qcow2/spec';
import type { JournalFacts } from './image-facts.ts';

/** The main journal of an image, as its header has it. */
export interface NamedJournal {
  readonly state: 'dirty' | 'clean' | 'stale';
  readonly version: number;
  readonly main: BoundJournal;
}

/** @returns undefined for an image that names no journal, or none that counts */
export async function gatherJournalFacts(
  device: BlockDevice,
  header: Qcow2Header,
): Promise<JournalFacts | undefined> {
  if (header.draftJournal !== undefined) return await draftFacts(device, header, header.draftJournal);
  const bound = boundJournal(header);
  if (bound === undefined) return undefined;
  const { state, version, main } = bound;
  const common = { version, profile: 'v1', hostOffset: main.hostOffset, lengthBytes: main.lengthBytes };
  // Where the range may have been taken by a foreign writer, what stands there is no slot of ours.
  if (state === 'stale') return { ...common, state };
  const slot = await rulingSlot(device, main);
  if (slot === undefined) return { ...common, state: 'damaged' };
  const blockBytes = 2 ** slot.blockSizeOrder;
  return { ...common, state, blockBytes, ringBytes: journalGeometry(main.lengthBytes, blockBytes).ringBytes };
}

/** The header is of the profile because its journal's header was found. */
async function draftFacts(
  device: BlockDevice,
  header: Qcow2Header,
  binding: DraftBinding,
): Promise<JournalFacts> {
  const area = await run(readDraftArea(device, binding.hostOffset, 2 ** header.clusterBits));
  const { journalLengthBytes, syncedSequence, committedSequence } = area.header;
  return {
    profile: 'draft-2013',
    state: binding.dirty ? 'dirty' : 'clean',
    hostOffset: area.hostOffset,
    lengthBytes: journalLengthBytes,
    blockBytes: area.ring.blockBytes,
    ringBytes: area.ring.lengthBytes,
    records: binding.dirty ? draftReplayCount(area.header) : 0,
    syncedSequence,
    committedSequence,
  };
}

/**
 * The main journal that the extension names. Of an image that is clean, an extension that can not be decoded is
 * as good as none (JRN-BIND-017, JRN-BIND-022).
 */
export function boundJournal(header: Qcow2Header): NamedJournal | undefined {
  const state = stateOf(header);
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.journal);
  if (data === undefined) return undefined;
  try {
    const context = { clusterBytes: 2 ** header.clusterBits, hostOffset: 0 };
    const { version, journals } = decodeJournalExtension(data, context);
    const main = journals.find((journal) => journal.kind === 'main');
    return main === undefined ? undefined : { state, version, main };
  } catch (error) {
    if (state !== 'dirty' && error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

function stateOf(header: Qcow2Header): 'dirty' | 'clean' | 'stale' {
  if ((header.incompatibleFeatures & incompatibleFeatures.journalDirty) !== 0n) return 'dirty';
  return (header.autoclearFeatures & autoclearFeatures.journalValid) !== 0n ? 'clean' : 'stale';
}

/** The slot that counts; undefined unless both are there (JRN-RECOV-001). */
async function rulingSlot(device: BlockDevice, journal: BoundJournal): Promise<JournalSlot | undefined> {
  const found: JournalSlot[] = [];
  for (const place of await slotPlaces(device, journal)) {
    const slot = await slotAt(device, place);
    if (slot !== undefined) found.push(slot);
  }
  return found.length < 2 ? undefined : found.sort((a, b) => b.generation - a.generation)[0];
}

/**
 * Host offsets of the slots: the area's start, and wherever a slot stands that may be the second one. It stands one stride behind
 * the first, and how long a stride is only a slot tells: each possible one is tried.
 */
export async function slotPlaces(device: BlockDevice, journal: BoundJournal): Promise<number[]> {
  // Small blocks share one stride.
  const places = new Set<number>([journal.hostOffset]);
  for (let order = journalV1Limits.minBlockSizeOrder; order <= journalV1Limits.maxBlockSizeOrder; order++) {
    const { slotStrideBytes } = journalGeometry(journal.lengthBytes, 2 ** order);
    if (order > journalV1Limits.minBlockSizeOrder && slotStrideBytes !== 2 ** order) continue;
    if (slotStrideBytes >= journal.lengthBytes) break;
    const place = hostOffset(journal.hostOffset + slotStrideBytes);
    if ((await slotAt(device, place)) !== undefined) places.add(place);
  }
  return [...places];
}

async function slotAt(device: BlockDevice, hostOffset: number): Promise<JournalSlot | undefined> {
  const bytes = new Uint8Array(journalV1Limits.slotBytes);
  await readPadded(device, hostOffset, bytes);
  try {
    return decodeSlot(bytes, { hostOffset });
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}
