/** An image opened for `serve` and `start`: its chain, its journal as asked for, and an orderly end. */
import type { BlockDevice } from '@qcow2/block-device';
import { openImage, type Qcow2Image } from '@qcow2/driver';
import { FileDevice } from '@qcow2/fs';
import { CommandFailure } from './failures.ts';
import type { FollowPolicy } from './follow.ts';
import { passDiscard } from './image-options.ts';
import { journalSummary } from './journal-summary.ts';
import type { NamedImage } from './named-image.ts';
import { explainingOpen, openChain } from './open-image.ts';

/** What is done about the journal before serving: make one, take it away, leave it as it is. */
export type JournalMode = 'on' | 'off' | 'auto';

/** A served image that nobody has written to for so long is brought to the state of a clean close. */
export const defaultIdleSeconds = 5;

export interface ServedImage {
  readonly device: BlockDevice;
  /** The image itself; undefined for a raw file, and for a foreign image. */
  readonly image: Qcow2Image | undefined;
  /** It, and what is below it, from the top down. */
  readonly layers: readonly BlockDevice[];
  /** Unallocated ranges show another file's bytes. */
  readonly hasBacking: boolean;
  /** Times that fdatasync was called on its file, and on its data file; undefined where they are no files of this machine. */
  fileSyncs(): number | undefined;
  /** What its journal did so far, in one line; undefined where it has none, or is only read. */
  summary(): string | undefined;
  /** Write back, clear the dirty bit, close every file. */
  close(): Promise<void>;
}

export interface ServedImageOptions {
  readonly readOnly: boolean;
  readonly journal: JournalMode;
  /** What is done about names that stand in images. */
  readonly follow?: FollowPolicy | undefined;
  /** Whether what clients discard becomes holes in the file; not if not given. */
  readonly discard?: 'ignore' | 'unmap';
  /** Seconds without a request after which the image is made clean; 0: never. */
  readonly idleSeconds?: number | undefined;
}

/** @throws CommandFailure */
export async function openServedImage(named: NamedImage, options: ServedImageOptions): Promise<ServedImage> {
  if (options.readOnly && options.journal !== 'auto') {
    throw new CommandFailure(`--journal ${options.journal} changes the image, which --read-only forbids`);
  }
  const says = Object.values(named.options?.passDiscard ?? {}).includes(true);
  const chain = await openChain(named, says ? { ...options, discard: 'unmap' } : options);
  const { top, backing, opening } = chain;
  const { fileName: name } = named;
  if (top.format !== 'qcow2') {
    try {
      if (top.format === 'raw') refuseGuessedRaw(name, top.probed, options);
    } catch (error) {
      await chain.close();
      throw error;
    }
    return {
      device: top.device,
      image: undefined,
      layers: [top.device],
      hasBacking: false,
      fileSyncs: () => syncsOf([top.device]),
      summary: () => undefined,
      close: chain.close,
    };
  }
  try {
    const { cache, lazyRefcounts } = named.options ?? {};
    const image = await explainingOpen(name, () =>
      openImage(top.device, {
        ...opening,
        readOnly: options.readOnly,
        passDiscard: passDiscard(named.options, options.discard ?? 'ignore'),
        journal: { idleMs: (options.idleSeconds ?? defaultIdleSeconds) * 1000 },
        ...(cache === undefined ? {} : { cache }),
        ...(lazyRefcounts === undefined ? {} : { lazyRefcounts }),
      }),
    ).catch((error: unknown) => {
      throw named.explain(error);
    });
    if (options.journal === 'on' && image.journalStatus() === undefined) await image.enableJournal();
    if (options.journal === 'off' && image.journalStatus() !== undefined) await image.disableJournal();
    return {
      device: image,
      image,
      layers: [image, ...chain.layers.map(({ device }) => device)],
      hasBacking: backing !== undefined,
      fileSyncs: () => syncsOf([top.device, ...(opening.dataFile === undefined ? [] : [opening.dataFile])]),
      summary: () => journalSummary(image.journalStatus()),
      close: async () => {
        await image.close();
        await chain.close();
      },
    };
  } catch (error) {
    await chain.close();
    throw error;
  }
}

function syncsOf(devices: readonly BlockDevice[]): number | undefined {
  const files = devices.filter((device) => device instanceof FileDevice);
  return files.length === 0 ? undefined : files.reduce((sum, { syncs }) => sum + syncs, 0);
}

/**
 * A guest that may write anywhere into a disk whose format was guessed can make it look like another format,
 * and name any file as its backing file, for the next one who guesses.
 */
function refuseGuessedRaw(name: string, probed: boolean, options: ServedImageOptions): void {
  if (options.journal === 'on') throw new CommandFailure(`'${name}' is a raw file and can have no journal`);
  if (!probed || options.readOnly) return;
  throw new CommandFailure(
    `'${name}' seems to be raw. To serve it for writing, say so with -f raw: ` +
      'a client could otherwise turn it into an image of another format',
  );
}
