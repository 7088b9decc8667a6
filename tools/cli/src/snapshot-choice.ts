/** `-l`: an internal snapshot of an image, to be read in place of its disk. */
import type { BlockDevice } from '@qcow2/block-device';
import type { Qcow2Image } from '@qcow2/driver';
import type { CommandContext } from './command.ts';
import type { DiskImage } from './disk-image.ts';
import { CommandFailure } from './failures.ts';
import type { ServedFormat } from './image-format.ts';
import { elementsOf } from './option-list.ts';

export const snapshotOption = {
  name: 'snapshot',
  short: 'l',
  argument: 'SNAPSHOT',
  help: 'read this internal snapshot: an id or a name, or snapshot.id=…,snapshot.name=…',
} as const;

/** What was asked for; `either` is an id, or else a name. */
export type WantedSnapshot =
  | { readonly either: string }
  | { readonly id: string | undefined; readonly name: string | undefined };

const prefix = 'snapshot.';

/**
 * @param quote what messages have in front of the words that they repeat: qemu-nbd has another sign there
 * @throws CommandFailure for a parameter that is not one of a snapshot
 */
export function wantedSnapshot(
  text: string | undefined,
  { programName }: CommandContext,
  quote: "'" | '`' = "'",
): WantedSnapshot | undefined {
  if (text === undefined) return undefined;
  if (!text.startsWith(prefix)) return { either: text };
  const elements = elementsOf(text);
  const unknown = elements.find(({ name }) => name !== `${prefix}id` && name !== `${prefix}name`);
  if (unknown !== undefined) {
    throw new CommandFailure(
      `Invalid parameter '${unknown.name}'\n${programName}: Failed in parsing snapshot param ${quote}${text}'`,
    );
  }
  const given = (key: string) => elements.findLast(({ name }) => name === `${prefix}${key}`)?.text;
  return { id: given('id'), name: given('name') };
}

/** The image with the snapshot's disk in place of its own. @throws CommandFailure: "Failed to load snapshot: …" */
export async function showingSnapshot(image: DiskImage, wanted: WantedSnapshot): Promise<DiskImage> {
  const device = await snapshotDisk(image.image, wanted, image.format);
  const [top, ...below] = image.layers;
  return { ...image, device, layers: [{ ...top!, device }, ...below] };
}

/** @param image undefined for a raw file, or one of another `format`. @throws CommandFailure: "Failed to load snapshot: …" */
export async function snapshotDisk(
  image: Qcow2Image | undefined,
  wanted: WantedSnapshot,
  format: ServedFormat = 'raw',
): Promise<BlockDevice> {
  if (image === undefined) {
    throw new CommandFailure(
      `Failed to load snapshot: Block format '${format}' used by device '' does not support temporarily loading internal snapshots`,
    );
  }
  const { snapshots } = image;
  const found =
    'either' in wanted
      ? (snapshots.find(({ id }) => id === wanted.either) ??
        snapshots.find(({ name }) => name === wanted.either))
      : snapshots.find(
          ({ id, name }) =>
            (wanted.id === undefined || wanted.id === id) &&
            (wanted.name === undefined || wanted.name === name),
        );
  if (found === undefined) throw new CommandFailure("Failed to load snapshot: Can't find snapshot");
  return await image.openSnapshot({ id: found.id });
}
