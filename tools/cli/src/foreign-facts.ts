/** What `info` knows of an image of a foreign format: its sizes, and of VMDK its descriptor and extents, as they become members of qemu-img's reports. */
import { statSync } from 'node:fs';
import type { ForeignImage } from '@qcow2/foreign';
import { besideImage, isHttp, localPath } from './file-name.ts';
import type { BackingFacts, ImageFacts, VmdkReport } from './image-facts.ts';

const sectorBytes = 512;

/** @param diskBytes of the image's own file */
export function foreignFacts(image: ForeignImage, path: string, diskBytes: number | undefined): ImageFacts {
  const { format, sizeBytes: virtualSizeBytes, clusterBytes, vmdk } = image;
  const facts = { path, format, virtualSizeBytes, clusterBytes };
  if (vmdk === undefined) return { ...facts, diskBytes };
  const extents = vmdk.extents.map((extent) => ({
    compressed: extent.isCompressed ? (true as const) : undefined,
    virtualSizeBytes: extent.sizeBytes,
    path: extent.path ?? path,
    clusterBytes: extent.grainBytes,
    type: extent.type ?? '',
  }));
  const report: VmdkReport = {
    cid: vmdk.cid,
    parentCid: vmdk.parentCid,
    createType: vmdk.createType,
    extents,
    ...backingOf(path, vmdk.parentName),
  };
  const others = vmdk.extents.flatMap((extent) => (extent.path === undefined ? [] : [extent.path]));
  return { ...facts, diskBytes: allOfThem(diskBytes, others), vmdk: report };
}

/** The image that this one is a difference to is another of the same format. */
function backingOf(path: string, parentName: string | undefined): BackingFacts {
  if (parentName === undefined || parentName === '') return {};
  return {
    backingFile: parentName,
    backingFormat: 'vmdk',
    fullBackingFile: besideImage(path, parentName),
  };
}

function allOfThem(diskBytes: number | undefined, others: readonly string[]): number | undefined {
  if (diskBytes === undefined || others.some(isHttp)) return undefined;
  return others.reduce((sum, path) => sum + statSync(localPath(path)).blocks * sectorBytes, diskBytes);
}
