/** Opening: the one entry for all formats. Which of them a file is, the caller says; `probeForeign` tells by its first bytes. */
import { type BlockDevice, run, type Task } from '@qcow2/block-device';
import { type ForeignFormat, ForeignImage, type ForeignParts } from './foreign-image.ts';
import { openVdi } from './vdi.ts';
import { openVhdx } from './vhdx.ts';
import { openVmdk, type VmdkOptions } from './vmdk.ts';
import { openVpc } from './vpc.ts';

export interface ForeignOptions extends VmdkOptions {}

const openers: Readonly<
  Record<ForeignFormat, (file: BlockDevice, options: ForeignOptions) => Task<ForeignParts>>
> = {
  vdi: openVdi,
  vpc: openVpc,
  vmdk: openVmdk,
  vhdx: openVhdx,
};

/**
 * Open an image of a foreign format as a disk that is only read.
 * @param file is the image's from then on, and closed with it; the caller's still where this fails
 * @throws FormatError: what stands in the file can not be right; UNSUPPORTED_FEATURE: it is legal, and not served; what the file throws
 */
export async function openForeign(
  file: BlockDevice,
  format: ForeignFormat,
  options: ForeignOptions = {},
): Promise<ForeignImage> {
  return new ForeignImage(await run(openers[format](file, options)));
}
