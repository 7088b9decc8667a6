/** An image, opened for writing with the chain below it, for commands that change it while nobody uses it. */
import { nodeCompression } from '@qcow2/compression';
import { openImage, type Qcow2Image } from '@qcow2/driver';
import type { FollowPolicy } from './follow.ts';
import { explainingOpen, openChain } from './open-image.ts';

export interface WritableImageChoice {
  readonly format?: string | undefined;
  /** What is done about names that stand in images; local files are followed if not given. */
  readonly follow?: FollowPolicy | undefined;
}

/** A raw file has no metadata: what can be done to it, if anything. */
export type RawAction<T> = (device: {
  readonly sizeBytes: number;
  resize(sizeBytes: number): void | Promise<void>;
}) => T | Promise<T>;

/**
 * Open, act, close: replayed and clean afterwards.
 * @throws CommandFailure: "Could not open '…': …"; what the action throws
 */
export async function withWritableImage<T>(
  name: string,
  choice: WritableImageChoice,
  action: (image: Qcow2Image) => Promise<T>,
  onRaw: RawAction<T>,
): Promise<T> {
  const opened = await openChain(name, { ...choice, readOnly: false });
  let image: Qcow2Image | undefined;
  try {
    if (opened.top.format === 'raw') return await onRaw(opened.top.device);
    image = await explainingOpen(name, () =>
      openImage(opened.top.device, {
        backing: opened.backing ?? 'none',
        compression: nodeCompression(),
        ...(opened.dataFile === undefined ? {} : { dataFile: opened.dataFile }),
      }),
    );
    return await action(image);
  } finally {
    await image?.close();
    await opened.close();
  }
}
