/**
 * Places for the clusters that a disk has gained: each guest cluster behind the old end gets its host cluster, and nobody has written there.
 *
 * The disk has its new size by then, durable, and reads as zeros behind the old end: by entries that say so where something would be seen there, a longer backing
 * file for instance. What has a place already keeps it: the cluster in which the disk ended, clusters that a table maps further on.
 *
 * Crash argument. Each section maps some clusters to places that read as zeros, in one change of the metadata log, as any write to a new
 * cluster does: with the file as long as they need, and refcounts before entries or in the same record. What a crash leaves is the larger disk, all zeros behind
 * the old end, of which some clusters have places and some do not; no error, and with a journal no leak. The size itself is `grow-operation.ts`'s.
 *
 * Without fresh places (behind all that was ever written) the entry says "reads as zeros": a free cluster may hold old bytes.
 */
import type { Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { Mapping } from './mapping.ts';
import { section } from './operation.ts';
import type { ImageParts } from './parts.ts';

/** `metadata`: entries are written; `data`: and say that there is data, for who sets the space aside. */
export type ResizePreallocation = 'off' | 'metadata' | 'data';

/** Durable on return. Holds: `operations`, and not the write lock. @throws NO_SPACE, WRITE_FAILED */
export function* preallocateBehind(
  parts: ImageParts,
  oldSizeBytes: number,
  how: Exclude<ResizePreallocation, 'off'>,
): Task<void> {
  const { clusterBytes, header, log } = parts.core;
  const end = Math.ceil(header.sizeBytes / clusterBytes);
  // As QEMU: where a backing file is longer, all of the new part says zeros.
  const isHidden = (parts.core.backing?.sizeBytes ?? 0) > oldSizeBytes;
  for (let at = Math.ceil(oldSizeBytes / clusterBytes); at < end; ) {
    const from = at;
    at = yield* section(parts, () => preallocateSome(parts, from, end, { how, isHidden }));
  }
  yield* log.commit();
}

/** Clusters that are alike, as many as one change takes. Returns where to go on. Holds: the write lock. */
function* preallocateSome(
  parts: ImageParts,
  first: number,
  end: number,
  { how, isHidden }: { readonly how: 'metadata' | 'data'; readonly isHidden: boolean },
): Task<number> {
  const { mappings, allocator, core } = parts;
  const mapping = yield* mappings.lookup(first);
  if (hasPlace(mapping)) return first + 1;
  const most = Math.min(end, first + Math.max(1, Math.floor(parts.pieceBytes / core.clusterBytes)));
  let last = first + 1;
  while (last < most && isLike(yield* mappings.lookup(last), mapping)) last++;
  const saysZeros = how === 'metadata' && (isHidden || mapping.kind === clusterKind.zeroPlain);
  const isData = how === 'data' || core.data.isExternal;
  const says = saysZeros ? 'zeros' : isData ? 'data' : 'nothing';
  const count = yield* parts.preallocate(first, last - first, says);
  yield* allocator.extendFile();
  return first + count;
}

function hasPlace({ kind, hostOffset, compressed }: Mapping): boolean {
  return hostOffset !== 0 || compressed !== undefined || kind === clusterKind.standard;
}

function isLike(mapping: Mapping, other: Mapping): boolean {
  return mapping.kind === other.kind && !hasPlace(mapping);
}
