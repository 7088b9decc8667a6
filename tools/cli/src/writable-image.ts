/** An image, opened for writing with the chain below it, for commands that change it while nobody uses it. */
import type { BlockDevice } from '@qcow2/block-device';
import { openImage, type Qcow2Image } from '@qcow2/driver';
import type { FollowPolicy } from './follow.ts';
import { passDiscard } from './image-options.ts';
import type { NamedImage } from './named-image.ts';
import { explainingOpen, namedFacts, openChain } from './open-image.ts';

export interface WritableImageChoice {
  /** What is done about names that stand in the image. */
  readonly follow: FollowPolicy;
  /** No guest byte is asked for: what is below is opened only where a journal that is to be replayed may need it. */
  readonly metadataOnly?: boolean;
  /** What is written stays in memory, and is told of at the end: the length that the file has, and would have. */
  readonly dryRun?: { readonly closed?: (fileBytes: number, afterwards: number) => void } | undefined;
}

/** A raw file has no metadata: what can be done to it, if anything. */
export type RawAction<T> = (device: BlockDevice) => T | Promise<T>;

/**
 * Open, act, close: replayed and clean afterwards. The action gets the image's file, and the one in which guest bytes stand.
 * @throws CommandFailure: "Could not open '…': …"; what the action throws
 */
export async function withWritableImage<T>(
  named: NamedImage,
  choice: WritableImageChoice,
  action: (image: Qcow2Image, file: BlockDevice, data: BlockDevice) => Promise<T>,
  onRaw: RawAction<T>,
): Promise<T> {
  const opened = await openChain(named, {
    follow: choice.follow,
    readOnly: false,
    discard: 'unmap',
    dryRun: choice.dryRun !== undefined,
    alone: choice.metadataOnly === true && (await standsAlone(named)),
  });
  const fileBytes = opened.top.device.sizeBytes;
  let image: Qcow2Image | undefined;
  try {
    if (opened.top.format !== 'qcow2') return await onRaw(opened.top.device);
    try {
      image = await explainingOpen(named.fileName, () =>
        openImage(opened.top.device, {
          ...opened.opening,
          passDiscard: passDiscard(named.options, 'ignore'),
        }),
      );
    } catch (error) {
      throw named.explain(error);
    }
    return await action(image, opened.top.device, opened.opening.dataFile ?? opened.top.device);
  } finally {
    await image?.close();
    await opened.close();
    choice.dryRun?.closed?.(fileBytes, opened.top.device.sizeBytes);
  }
}

/** A clean image needs no backing file for its metadata. What has a data file is not opened for writing without it. */
export async function standsAlone(named: NamedImage): Promise<boolean> {
  const { journal, dataFileRaw } = (await namedFacts(named)).qcow2 ?? {};
  return journal?.state !== 'dirty' && dataFileRaw === undefined;
}
