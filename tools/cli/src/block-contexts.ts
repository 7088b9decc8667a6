/** What `serve` says of ranges beside base:allocation: -A, where in the chain bytes stand; -B NAME, what a bitmap says has changed. */
import type { BlockDevice } from '@qcow2/block-device';
import { allocationDepth, type Qcow2Image } from '@qcow2/driver';
import type { NbdMetadataContext, StatusRun } from '@qcow2/nbd';
import { CommandFailure } from './failures.ts';

/** @param layers from the top down */
export function allocationDepthContext(layers: readonly BlockDevice[]): NbdMetadataContext {
  return {
    name: 'qemu:allocation-depth',
    status: async (offset, lengthBytes, maximumRuns) => {
      const runs = await allocationDepth(layers, offset, lengthBytes, maximumRuns);
      return runs.map(({ lengthBytes: length, depth }) => ({ lengthBytes: length, status: depth }));
    },
  };
}

/** Of so much disk at a time the bitmap is asked. */
const pieceBytes = 256 * 1024 * 1024;
const isDirty = 1;

/** @throws CommandFailure in QEMU's words where there is no such bitmap or it can not be used */
export async function dirtyBitmapContext(
  image: Qcow2Image | undefined,
  name: string,
): Promise<NbdMetadataContext> {
  const found = (await image?.bitmaps())?.find((one) => one.name === name);
  if (image === undefined || found === undefined) throw new CommandFailure(`Bitmap '${name}' is not found`);
  if (found.inconsistent) {
    throw new CommandFailure(
      `Bitmap '${name}' is inconsistent and cannot be used\n` +
        'Try block-dirty-bitmap-remove to delete this bitmap from disk',
    );
  }
  return {
    name: `qemu:dirty-bitmap:${name}`,
    status: (offset, lengthBytes, maximumRuns) =>
      dirtyRuns(image, name, { offset, lengthBytes, maximumRuns }),
  };
}

async function dirtyRuns(
  image: Qcow2Image,
  name: string,
  asked: { readonly offset: number; readonly lengthBytes: number; readonly maximumRuns: number },
): Promise<readonly StatusRun[]> {
  const runs: StatusRun[] = [];
  const end = asked.offset + asked.lengthBytes;
  for (let at = asked.offset; at < end && runs.length <= asked.maximumRuns; ) {
    const pieceEnd = Math.min(end, at + pieceBytes);
    for (const { offset, lengthBytes } of await image.dirtyRanges(name, at, pieceEnd - at)) {
      if (offset > at) runs.push({ lengthBytes: offset - at, status: 0 });
      runs.push({ lengthBytes, status: isDirty });
      at = offset + lengthBytes;
    }
    if (at < pieceEnd) runs.push({ lengthBytes: pieceEnd - at, status: 0 });
    at = pieceEnd;
  }
  return runs;
}
