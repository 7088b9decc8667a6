/** BLOCK_STATUS for base:allocation: the device's extents as the protocol's descriptors. */
import type { Extent, ExtentKind } from '@qcow2/block-device';
import type { ServedExport } from './export.ts';
import { allocationState, limits } from './protocol.ts';
import type { StatusDescriptor } from './reply.ts';

/**
 * Descriptors from `offset` on, without gaps, at least one, covering at most `lengthBytes` (which is more
 * than 0). Neighbours differ in status, and every length is a multiple of the export's minimum block size:
 * a block that is only partly zero counts as data, which is always safe.
 */
export function statusDescriptors(
  served: ServedExport,
  extents: readonly Extent[],
  offset: number,
  lengthBytes: number,
  maximumCount: number = limits.blockStatusDescriptors,
): StatusDescriptor[] {
  const block = served.minimumBlockBytes;
  const end = offset + lengthBytes;
  const descriptors: StatusDescriptor[] = [];
  let at = offset;
  const cover = (until: number, status: number): void => {
    if (until <= at) return;
    const last = descriptors.at(-1);
    if (last?.status === status) last.lengthBytes += until - at;
    else descriptors.push({ lengthBytes: until - at, status });
    at = until;
  };
  let known = offset;
  for (const extent of extents) {
    if (extent.offset >= end) break;
    known = Math.min(end, extent.offset + extent.lengthBytes);
    const status = statusOf(extent.kind, served.holesReadAsZeros);
    if (status === 0) continue;
    cover(roundUp(Math.max(extent.offset, at), block), 0);
    cover(known - (known % block), status);
    if (descriptors.length > maximumCount) break;
  }
  cover(Math.max(known - (known % block), at), 0);
  // A device that says less than one block leaves us with nothing: the block is data then.
  if (descriptors.length === 0) cover(Math.min(end, offset + block), 0);
  return descriptors.length > maximumCount ? descriptors.slice(0, maximumCount) : descriptors;
}

function statusOf(kind: ExtentKind, holesReadAsZeros: boolean): number {
  if (kind === 'zero') return allocationState.ZERO;
  if (kind === 'hole' && holesReadAsZeros) return allocationState.HOLE | allocationState.ZERO;
  return 0;
}

function roundUp(value: number, block: number): number {
  return Math.ceil(value / block) * block;
}
