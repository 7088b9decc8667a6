/**
 * Changing what stands in an image's first cluster, safely against a crash at any point.
 *
 * A sector is the only unit that storage keeps or loses as a whole. Where old and new content differ in one
 * sector only, one write does it. Else the new extensions and the backing file name are first written to a
 * free place further back in the cluster; then one write of the first sector makes the header that much
 * longer, so that they are the extensions now and what stood in between has no meaning; then the region in
 * between is written as it is meant to be; and one more write of the first sector makes the header short
 * again. Between any two of these the image has a whole header, with the old content or the new.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { encodeHeader, type Qcow2Header } from '@qcow2/codec';
import { StorageError } from '@qcow2/spec';

const sectorBytes = 512;

/** Replace the header cluster. Durable on return. `oldEnd`: bytes of the cluster that are in use now. */
export function* replaceHeader(device: BlockDevice, old: Uint8Array, header: Qcow2Header): Task<void> {
  const content = encodeHeader(header);
  const changed = changedSectors(old, content);
  if (changed.length <= 1) {
    for (const sector of changed) yield* writeSector(device, content, sector);
    yield* flush(device);
    return;
  }
  const { stagedAt, stagedContent } = stage(old, header, content);
  // 1. The new extensions and name, where nothing stands.
  yield* writeRange(device, stagedContent, stagedAt, stagedContent.length);
  yield* flush(device);
  // 2. They are the extensions; the old ones are bytes without meaning.
  yield* writeSector(device, stagedContent, 0);
  yield* flush(device);
  // 3. What stands between the first sector and the staged copy.
  yield* writeRange(device, content, sectorBytes, stagedAt);
  yield* flush(device);
  // 4. The header as it is meant to be, its first sector whole.
  yield* writeSector(device, content, 0);
  yield* flush(device);
  yield* writeRange(device, content, stagedAt, Math.min(content.length, stagedAt * 2));
  yield* flush(device);
}

/**
 * Why the header can not be replaced by this one, known before anything is written; undefined: it can.
 * @throws whatever `encodeHeader` throws but NO_SPACE
 */
export function refusalToReplace(old: Uint8Array, header: Qcow2Header): StorageError | undefined {
  try {
    const content = encodeHeader(header);
    if (changedSectors(old, content).length > 1) stage(old, header, content);
    return undefined;
  } catch (error) {
    if (error instanceof StorageError && error.code === 'NO_SPACE') return error;
    throw error;
  }
}

/** Where the new extensions stand for a while, and the cluster with them there. */
function stage(
  old: Uint8Array,
  header: Qcow2Header,
  content: Uint8Array,
): { stagedAt: number; stagedContent: Uint8Array } {
  const inUse = Math.max(usedBytes(old), usedBytes(content));
  const stagedAt = Math.ceil(inUse / sectorBytes) * sectorBytes;
  const unknown = new Uint8Array(stagedAt - 105);
  unknown.set(content.subarray(105, stagedAt));
  const staged = { ...header, headerLengthBytes: stagedAt, unknownHeaderBytes: unknown };
  return { stagedAt, stagedContent: encodeStaged(staged, content, old, stagedAt) };
}

/** The cluster with the extensions at `stagedAt`, the old bytes still between the first sector and there. */
function encodeStaged(
  staged: Qcow2Header,
  content: Uint8Array,
  old: Uint8Array,
  stagedAt: number,
): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = encodeHeader(staged);
  } catch (cause) {
    const message = 'the first cluster has no room to change the header extensions safely';
    throw new StorageError('NO_SPACE', message, { lengthBytes: content.length, clause: 'HDR-022' }, cause);
  }
  bytes.set(old.subarray(sectorBytes, stagedAt), sectorBytes);
  return bytes;
}

function changedSectors(old: Uint8Array, content: Uint8Array): number[] {
  const changed: number[] = [];
  for (let sector = 0; sector < content.length / sectorBytes; sector++) {
    const start = sector * sectorBytes;
    for (let i = start; i < start + sectorBytes; i++) {
      if (old[i] !== content[i]) {
        changed.push(sector);
        break;
      }
    }
  }
  return changed;
}

function usedBytes(cluster: Uint8Array): number {
  let end = cluster.length;
  while (end > 0 && cluster[end - 1] === 0) end--;
  // An end marker is eight zero bytes.
  return Math.min(cluster.length, end + 16);
}

function* writeSector(device: BlockDevice, cluster: Uint8Array, sector: number): Task<void> {
  yield* writeRange(device, cluster, sector * sectorBytes, (sector + 1) * sectorBytes);
}

function* writeRange(device: BlockDevice, cluster: Uint8Array, from: number, to: number): Task<void> {
  if (from >= to) return;
  yield* wait(device.write(from, cluster.subarray(from, to), { event: 'header_update' }));
}

function* flush(device: BlockDevice): Task<void> {
  yield* wait(device.flush({ event: 'flush_metadata' }));
}
