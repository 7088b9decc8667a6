/**
 * What a range of a disk is made of, and in which file of the chain: what `map` prints, what `compare` takes a shortcut by, what `convert`
 * need not read. In QEMU's terms: `data` has bytes in a file; `zero` reads as zeros, and that is known without reading; `present`
 * is the file's own, be it zeros, and does not show through from below. Neither data nor zero: it shows what stands below the layers that were
 * asked about.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { type PlacedExtent as ImageExtent, Qcow2Image } from '@qcow2/driver';
import { type ForeignExtent, ForeignImage } from '@qcow2/foreign';
import type { OpenedLayer } from './open-image.ts';

export interface BlockStatus {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly data: boolean;
  readonly zero: boolean;
  readonly present: boolean;
  /** Number of the layer that answers, from 0 at the top. */
  readonly depth: number;
  /** Where in that layer's file, or in its data file, the range stands byte for byte. */
  readonly hostOffset: number | undefined;
  /** That file, where it is neither the layer's own nor its data file. */
  readonly path?: string;
  /** Where the layer is on a server: a metadata context of that marks it. */
  readonly marked?: true;
}

type PlacedExtent = ImageExtent | ForeignExtent;

/** What is asked at a time: lists of extents stay short. */
const askedBytes = 256 * 1024 * 1024;

/**
 * The status of a range, piece by piece, in order and without gaps.
 * @param layers from the top down
 * @param depthLimit layers that are asked about
 */
export async function* blockStatuses(
  layers: readonly OpenedLayer[],
  offset: number,
  lengthBytes: number,
  depthLimit: number = layers.length,
): AsyncGenerator<BlockStatus, void, undefined> {
  const end = offset + lengthBytes;
  for (let at = offset; at < end; ) {
    const asked = Math.min(end - at, askedBytes);
    yield* statusFrom(layers, 0, depthLimit, at, asked);
    at += asked;
  }
}

async function* statusFrom(
  layers: readonly OpenedLayer[],
  depth: number,
  depthLimit: number,
  offset: number,
  lengthBytes: number,
): AsyncGenerator<BlockStatus, void, undefined> {
  const layer = layers[depth]!;
  const below = layers[depth + 1];
  for await (const extent of extentsOf(layer, offset, lengthBytes)) {
    if (extent.kind === 'hole' && layer.format !== 'raw' && below !== undefined) {
      // Where the file below has ended, zeros show, and that is this layer's word.
      const inBelow = Math.max(0, Math.min(extent.lengthBytes, below.device.sizeBytes - extent.offset));
      if (inBelow > 0 && depth + 1 < depthLimit) {
        yield* statusFrom(layers, depth + 1, depthLimit, extent.offset, inBelow);
      } else if (inBelow > 0) {
        yield { ...ownStatus(layer, { ...extent, lengthBytes: inBelow }, depth), zero: false };
      }
      const rest = extent.lengthBytes - inBelow;
      if (rest > 0) yield ownStatus(layer, { ...shifted(extent, inBelow), lengthBytes: rest }, depth);
    } else {
      yield ownStatus(layer, extent, depth);
    }
  }
}

function shifted(extent: PlacedExtent, bytes: number): PlacedExtent {
  const { hostOffset } = extent;
  const place = hostOffset === undefined ? {} : { hostOffset: hostOffset + bytes };
  return { ...extent, offset: extent.offset + bytes, ...place };
}

function ownStatus({ format }: OpenedLayer, extent: PlacedExtent, depth: number): BlockStatus {
  const { offset, lengthBytes, kind } = extent;
  const isRaw = format === 'raw';
  const isStored = 'isStored' in extent && extent.isStored === true;
  return {
    offset,
    lengthBytes,
    data: kind === 'data' || isStored,
    zero: kind !== 'data',
    present: isRaw || kind !== 'hole',
    depth,
    hostOffset: isRaw ? offset : extent.hostOffset,
    ...('marked' in extent && extent.marked === true ? { marked: true } : {}),
    ...('path' in extent && extent.path !== undefined ? { path: extent.path } : {}),
  };
}

/** All of them: a device may tell of less than it was asked. */
async function* extentsOf(
  { device }: OpenedLayer,
  offset: number,
  lengthBytes: number,
): AsyncGenerator<PlacedExtent, void, undefined> {
  const end = offset + lengthBytes;
  for (let at = offset; at < end; ) {
    const extents = await askedOf(device, at, end - at);
    for (const extent of extents) {
      yield extent;
      at = extent.offset + extent.lengthBytes;
    }
  }
}

function askedOf(
  device: BlockDevice,
  offset: number,
  lengthBytes: number,
): readonly PlacedExtent[] | Promise<readonly PlacedExtent[]> {
  return device instanceof Qcow2Image || device instanceof ForeignImage
    ? device.placedExtents(offset, lengthBytes)
    : device.extents(offset, lengthBytes);
}
