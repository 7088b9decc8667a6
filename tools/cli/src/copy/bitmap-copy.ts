/** `convert --bitmaps`: the bitmaps of an image, given to its copy. */
import type { Qcow2Image } from '@qcow2/driver';
import type { CommandContext } from '../command.ts';
import { CommandFailure } from '../failures.ts';

/** @throws CommandFailure where a bitmap can not be used, and so not be copied */
export async function refuseBroken(image: Qcow2Image): Promise<void> {
  const broken = (await image.bitmaps()).find(({ inconsistent }) => inconsistent);
  if (broken === undefined) return;
  throw new CommandFailure(
    `Cannot copy inconsistent bitmap '${broken.name}'\n` +
      'Try --skip-broken-bitmaps, or use --remove to delete it',
  );
}

/** Those that can be used; told of the others. What the copy wrote is in none of them. */
export async function copyBitmaps(
  from: Qcow2Image,
  to: Qcow2Image,
  { err, programName }: CommandContext,
): Promise<void> {
  for (const { name, granularityBytes, enabled, inconsistent } of await from.bitmaps()) {
    if (inconsistent) {
      err(`${programName}: warning: Skipping inconsistent bitmap '${name}'\n`);
      continue;
    }
    await to.addBitmap(name, { granularityBytes, enabled });
    await to.mergeBitmap(name, name, from);
  }
}
