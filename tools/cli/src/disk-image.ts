/**
 * An image as qemu-img's commands name one: by a file and perhaps `-f`, or by `--image-opts`; with `-U`, and the secrets of `--object`.
 * What comes of it is the guest's disk, and the files that it is made of, one by one, for commands that ask where bytes stand.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { openImage, type Qcow2Image } from '@qcow2/driver';
import type { OptionSpec, ParsedArguments } from './arguments.ts';
import type { CommandContext } from './command.ts';
import { CommandFailure } from './failures.ts';
import { type FollowPolicy, followOptions, followPolicy } from './follow.ts';
import type { ServedFormat } from './image-format.ts';
import { imageNameOptions, type NamedImage, nameImage } from './named-image.ts';
import {
  explainingOpen,
  type FileAccess,
  type OpenedChain,
  type OpenedLayer,
  openChain,
} from './open-image.ts';
import { Secrets } from './secrets.ts';
import { wholeSectors } from './whole-sectors.ts';

/** Of every command that names an image so. */
export const imageOptions: readonly OptionSpec[] = [
  {
    name: 'format',
    short: 'f',
    argument: 'FMT',
    help: 'qcow2, raw, vdi, vpc, vmdk, vhdx; found by itself if not given',
  },
  ...imageNameOptions,
  ...followOptions,
];

export const shareOption: OptionSpec = {
  name: 'force-share',
  short: 'U',
  help: 'also if somebody may be writing to it',
};

/** How the images of one call are to be opened. */
export interface NamingRules {
  readonly imageOpts: boolean;
  readonly shared: boolean;
  readonly secrets: Secrets;
  readonly follow: FollowPolicy;
  readonly context: CommandContext;
  /** Of the files of an image, all the way down. */
  readonly access?: FileAccess;
}

/** @throws CommandFailure: for a wrong secret, or `--image-opts` beside a format */
export function namingRules(
  args: ParsedArguments,
  context: CommandContext,
  formats: readonly string[] = ['format'],
): NamingRules {
  const secrets = new Secrets(args.values('object'));
  const imageOpts = args.has('image-opts');
  if (imageOpts && formats.some((name) => args.has(name))) {
    throw new CommandFailure('--image-opts and --format are mutually exclusive');
  }
  return { imageOpts, shared: args.has('force-share'), secrets, follow: followPolicy(args), context };
}

/** An image that is open: a disk, and the files that it is made of. */
export interface DiskImage {
  /** As it was given. */
  readonly name: string;
  readonly path: string;
  readonly format: ServedFormat;
  /** The guest's disk, of whole sectors when it is only read. */
  readonly device: BlockDevice;
  /** Undefined for a raw file, and for a foreign image. */
  readonly image: Qcow2Image | undefined;
  /** From the top down; the first shows `device`. */
  readonly layers: readonly OpenedLayer[];
  close(): Promise<void>;
}

export interface DiskImageChoice {
  readonly format?: string | undefined;
  readonly readOnly?: boolean;
  /** An image below, by its depth, that is to be written to. */
  readonly writableDepth?: number | undefined;
  /** Id of the secret that opens it, where no options say so. */
  readonly keySecret?: string | undefined;
  /** What is written stays in memory. */
  readonly dryRun?: boolean;
}

/** @throws CommandFailure: "Could not open '…': …" */
export async function openDiskImage(
  name: string,
  { format, readOnly = true, writableDepth, keySecret, dryRun = false }: DiskImageChoice,
  rules: NamingRules,
): Promise<DiskImage> {
  const { secrets, imageOpts: byOptions, shared, follow, context, access } = rules;
  const plain = nameImage(name, { format, byOptions, secrets });
  const named = keySecret === undefined ? plain : { ...plain, node: { ...plain.node, keySecret } };
  for (const short of named.options?.shortForms ?? []) warnShort(context, short);
  const chain = await openChain(named, { readOnly, shared, follow, writableDepth, dryRun, access });
  try {
    const { path, format: found, device: file } = chain.top;
    const image = found === 'qcow2' ? await openTop(chain, named, readOnly) : undefined;
    const device = image ?? (readOnly ? wholeSectors(file) : file);
    const below = chain.layers.map((layer, at) =>
      layer.format === 'raw' && at + 1 !== writableDepth
        ? { ...layer, device: wholeSectors(layer.device) }
        : layer,
    );
    return {
      name,
      path,
      format: found,
      device,
      image,
      layers: [{ path, format: found, device, dataPath: chain.dataPath }, ...below],
      close: async () => {
        await image?.close();
        await chain.close();
      },
    };
  } catch (error) {
    await chain.close();
    throw error;
  }
}

async function openTop(
  { top, opening }: OpenedChain,
  { fileName, explain, options }: NamedImage,
  readOnly: boolean,
): Promise<Qcow2Image> {
  const { cache, lazyRefcounts } = options ?? {};
  try {
    return await explainingOpen(fileName, async () => {
      const image = await openImage(top.device, {
        ...opening,
        readOnly,
        ...(cache === undefined ? {} : { cache }),
        ...(lazyRefcounts === undefined ? {} : { lazyRefcounts }),
      });
      if (!image.isLocked) return image;
      image.abandon();
      throw new CommandFailure("Parameter 'encrypt.key-secret' is required for cipher");
    });
  } catch (error) {
    throw explain(error);
  }
}

function warnShort({ err, programName }: CommandContext, option: string): void {
  const advice = `short-form boolean option '${option}' deprecated\nPlease use ${option}=on instead`;
  err(`${programName}: warning: ${advice}\n`);
}
