/** Where a writer goes on in a journal that has nothing to replay. */
import type { BlockDevice, Task } from '@qcow2/block-device';
import { peekDraftBlock } from '@qcow2/codec/journal/draft-2013';
import { RingReader } from '../ring.ts';
import type { DraftArea } from './area.ts';
import type { PlacedTransaction } from './space.ts';

/**
 * The last synced transaction of a journal with nothing to replay, behind which a writer goes on; undefined where
 * there is none, or it can not be read: then the writer begins at block 1, with a header that says so.
 */
export function* lastSynced(device: BlockDevice, area: DraftArea): Task<PlacedTransaction | undefined> {
  const { header, ring } = area;
  if (header.syncedIndex === 0) return undefined;
  const startLog = (header.syncedIndex - 1) * ring.blockBytes;
  const head = peekDraftBlock(
    yield* new RingReader(device, ring, ring.blockBytes).read(startLog, ring.blockBytes),
  );
  const blocks = 1 + (head?.dataBlockCount ?? 0);
  if (
    head === undefined ||
    head.sequence !== header.syncedSequence ||
    blocks * 2 * ring.blockBytes > ring.lengthBytes
  ) {
    return undefined;
  }
  return { sequence: head.sequence, startLog, endLog: startLog + blocks * ring.blockBytes };
}
