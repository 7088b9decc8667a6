/**
 * In which image of a chain the bytes of a range stand, as QEMU counts: 1 for the image on top, 2 for its backing file, and so on; 0
 * where they stand in none. A raw file has all of its bytes. Behind the end of an image below, what is above it shows zeros that
 * count as that image's.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { Qcow2Image } from './image.ts';

export interface DepthRun {
  readonly lengthBytes: number;
  readonly depth: number;
}

/**
 * @param layers from the top down: images, and at the bottom perhaps a raw file
 * @param maximumRuns it may end there, before the range does
 */
export async function allocationDepth(
  layers: readonly BlockDevice[],
  offset: number,
  lengthBytes: number,
  maximumRuns = Number.POSITIVE_INFINITY,
): Promise<readonly DepthRun[]> {
  const runs: { lengthBytes: number; depth: number }[] = [];
  for (let at = offset; at < offset + lengthBytes && runs.length <= maximumRuns; ) {
    const run = await firstRun(layers, at, Math.min(pieceBytes, offset + lengthBytes - at));
    const last = runs.at(-1);
    if (last?.depth === run.depth) last.lengthBytes += run.lengthBytes;
    else runs.push(run);
    at += run.lengthBytes;
  }
  return runs.slice(0, maximumRuns);
}

/** Of so much at a time a layer is asked for its extents: what is answered stays small. */
const pieceBytes = 16 * 1024 * 1024;

/** What the first bytes of a range have in common: each layer that has not got them shortens it. */
async function firstRun(layers: readonly BlockDevice[], offset: number, lengthBytes: number) {
  let length = lengthBytes;
  for (const [index, layer] of layers.entries()) {
    const depth = index + 1;
    const here = Math.min(length, layer.sizeBytes - offset);
    if (here <= 0 || !(layer instanceof Qcow2Image)) return { lengthBytes: here <= 0 ? length : here, depth };
    const extents = await layer.extents(offset, here);
    const isHole = extents[0]?.kind === 'hole';
    const end = extents.find(({ kind }) => (kind === 'hole') !== isHole);
    length = end === undefined ? here : end.offset - offset;
    if (!isHole) return { lengthBytes: length, depth };
  }
  return { lengthBytes: length, depth: 0 };
}
