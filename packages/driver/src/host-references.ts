/**
 * Who refers to which range of an image's file: header, tables, clusters of the disk and of each snapshot, bitmaps, journal. For those
 * who want to look at an image rather than to judge it, which is `checkImage`'s.
 *
 * Nothing is written; a dirty journal is replayed into memory, so what is told is what recovery will leave. Memory is bounded by the
 * tables that are held whole and one L2 table.
 */
import { type BlockDevice, run, type Task } from '@qcow2/block-device';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import { openParts } from './open.ts';
import type { ImageParts } from './parts.ts';
import { type ReferenceKind, ReferenceWalk, referenceNames } from './reference-walk.ts';

export interface HostReference {
  readonly kind: ReferenceKind;
  /** What refers, in words: `an L2 table`. */
  readonly name: string;
  readonly hostOffset: number;
  readonly lengthBytes: number;
  /** Of clusters that hold guest data. */
  readonly guestOffset?: number | undefined;
  /** Id of the internal snapshot whose table it is; undefined: the active disk's, or nobody's. */
  readonly snapshotId?: string | undefined;
}

export interface HostReferences {
  /** The refcount of a cluster, as its refcount block has it. */
  refcount(cluster: number): Promise<number>;
  /**
   * Tell each reference in turn; what breaks its clauses is passed over, and what leads beyond the end of the file is told and not
   * followed. @throws FormatError where a table that has no entries to pass over is damaged
   */
  visit(visit: (reference: HostReference) => void): Promise<void>;
}

/**
 * Open an image to look at its references. The device stays open, and is the caller's to close.
 * @throws FormatError, UNSUPPORTED_FEATURE where the image can not be opened at all
 */
export async function hostReferences(device: BlockDevice): Promise<HostReferences> {
  const parts = await run(openParts(device, { readOnly: true, backing: 'none' }));
  return {
    refcount: async (cluster) => await run(parts.allocator.refcount(cluster)),
    visit: async (visit) => await run(walk(parts, visit)),
  };
}

function* walk(parts: ImageParts, visit: (reference: HostReference) => void): Task<void> {
  const { core, snapshots } = parts;
  const { header } = core;
  let snapshotsSeen = 0;
  let snapshotId: string | undefined;
  const tell = (kind: ReferenceKind, hostOffset: number, lengthBytes: number, guestOffset?: number): void => {
    visit({ kind, name: referenceNames[kind], hostOffset, lengthBytes, guestOffset, snapshotId });
  };
  const journal = isJournalValid(header) ? boundJournal(header) : undefined;
  if (journal !== undefined) tell('journal', journal.hostOffset, journal.lengthBytes);
  yield* new ReferenceWalk(parts, {
    reference: (kind, hostOffset, lengthBytes, guestOffset) => {
      // Tables come in the order of the walk: those of the disk first, then those of each snapshot.
      if (kind === 'snapshotL1Table') snapshotId = snapshots[snapshotsSeen++]?.id;
      if (kind === 'detachedTable' || kind === 'refcountBlock') snapshotId = undefined;
      if (lengthBytes > 0) tell(kind, hostOffset, lengthBytes, guestOffset);
      return (
        hostOffset + lengthBytes <= Math.ceil(core.device.sizeBytes / core.clusterBytes) * core.clusterBytes
      );
    },
    damaged: () => undefined,
  }).walk();
}
