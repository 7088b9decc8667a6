/**
 * What the header and the two slots of a journal say, for `info` and `journal info`: without opening the
 * image, hence without replaying anything. What the live log holds, only reading it tells.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readPadded } from '@qcow2/block-device';
import {
  type BoundJournal,
  decodeJournalExtension,
  decodeSlot,
  findHeaderExtension,
  type JournalSlot,
  journalGeometry,
  type Qcow2Header,
} from '@qcow2/codec';
import {
  autoclearFeatures,
  headerExtensionTypes,
  incompatibleFeatures,
  journalV1Limits,
  Qcow2Error,
} from '@qcow2/spec';
import type { JournalFacts } from './image-facts.ts';

/** @returns undefined for an image that names no journal */
export async function gatherJournalFacts(
  device: BlockDevice,
  header: Qcow2Header,
): Promise<JournalFacts | undefined> {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.journal);
  if (data === undefined) return undefined;
  const extension = decodeJournalExtension(data, { clusterBytes: 2 ** header.clusterBits, hostOffset: 0 });
  const main = extension.journals.find((journal) => journal.kind === 'main');
  if (main === undefined) return undefined;
  const state = stateOf(header);
  const common = {
    version: extension.version,
    profile: 'v1',
    hostOffset: main.hostOffset,
    lengthBytes: main.lengthBytes,
  };
  // Where the range may have been taken by a foreign writer, what stands there is no slot of ours.
  const slot = state === 'stale' ? undefined : await newestSlot(device, main);
  if (slot === undefined) return { ...common, state: state === 'stale' ? state : 'damaged' };
  const blockBytes = 2 ** slot.blockSizeOrder;
  return { ...common, state, blockBytes, ringBytes: journalGeometry(main.lengthBytes, blockBytes).ringBytes };
}

function stateOf(header: Qcow2Header): 'dirty' | 'clean' | 'stale' {
  if ((header.incompatibleFeatures & incompatibleFeatures.journalDirty) !== 0n) return 'dirty';
  return (header.autoclearFeatures & autoclearFeatures.journalValid) !== 0n ? 'clean' : 'stale';
}

/**
 * The slot that counts. The second one stands one stride behind the first, and how long a stride is only a slot
 * tells: each possible one is tried.
 */
async function newestSlot(device: BlockDevice, journal: BoundJournal): Promise<JournalSlot | undefined> {
  const found: JournalSlot[] = [];
  const first = await slotAt(device, journal.hostOffset);
  if (first !== undefined) found.push(first);
  for (let order = journalV1Limits.minBlockSizeOrder; order <= journalV1Limits.maxBlockSizeOrder; order++) {
    const { slotStrideBytes } = journalGeometry(journal.lengthBytes, 2 ** order);
    if (order > journalV1Limits.minBlockSizeOrder && slotStrideBytes !== 2 ** order) continue;
    if (slotStrideBytes >= journal.lengthBytes) break;
    const slot = await slotAt(device, journal.hostOffset + slotStrideBytes);
    if (slot !== undefined) found.push(slot);
  }
  return found.sort((a, b) => b.generation - a.generation)[0];
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
