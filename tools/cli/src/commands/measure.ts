/** `measure`: how large an image will be, for who has to make room for it first. qemu-img's options, figures and words. */
import type { ParsedArguments } from '../arguments.ts';
import { blockStatuses } from '../block-status.ts';
import type { Command, CommandContext } from '../command.ts';
import { journalAreaBytes, qcow2Options, rawFileOptions } from '../create-options.ts';
import {
  type DiskImage,
  imageOptions,
  type NamingRules,
  namingRules,
  openDiskImage,
  shareOption,
} from '../disk-image.ts';
import { encryptionSettings } from '../encryption-options.ts';
import { CommandFailure } from '../failures.ts';
import { jsonText } from '../json-text.ts';
import { bitmapBytes, fullyAllocatedBytes, isTooLarge, type MeasuredShape } from '../measure-sizes.ts';
import { joinLists, type OptionValues, parseOptionList } from '../option-list.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import type { Secrets } from '../secrets.ts';
import { sizeArgument } from '../size-option.ts';
import { showingSnapshot, snapshotOption, wantedSnapshot } from '../snapshot-choice.ts';

export const measure: Command = {
  operands: '[FILE]',
  options: [
    ...imageOptions,
    outputOption,
    { name: 'target-format', short: 'O', argument: 'FMT', help: 'format to be made: raw (default), qcow2' },
    { name: 'options', short: 'o', argument: 'LIST', help: 'options of that format, as create has them' },
    snapshotOption,
    { name: 'size', argument: 'SIZE', help: 'of an empty disk of this size, in place of FILE' },
    shareOption,
  ],
  notes: 'Examples:\n  qcow2 measure -O qcow2 disk.raw\n  qcow2 measure -O qcow2 --size 10G',
  run: runMeasure,
};

interface Measured {
  readonly required: number;
  readonly fullyAllocated: number;
  readonly bitmaps?: number | undefined;
}

async function runMeasure(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const sizeText = args.value('size');
  const size = sizeText === undefined ? undefined : sizeArgument(sizeText, 'image size', context);
  const wanted = wantedSnapshot(args.value('snapshot'), context);
  const list = args.has('options') ? joinLists(args.values('options')) : '';
  const rules = namingRules(args, context, []);
  const [name, ...extra] = args.operands;
  if (extra.length > 0) throw new CommandFailure('At most one filename argument is allowed.');
  const needsFile = args.has('image-opts') || args.has('format') || wanted !== undefined;
  if (name === undefined && needsFile) {
    throw new CommandFailure('--image-opts, -f, and -l require a filename argument.');
  }
  if (name === undefined && size === undefined) {
    throw new CommandFailure('Either --size N or one filename must be specified.');
  }
  if (name !== undefined && size !== undefined) {
    throw new CommandFailure('--size N cannot be used together with a filename.');
  }
  if (args.has('image-opts')) namingRules(args, context);
  const opened =
    name === undefined ? undefined : await openDiskImage(name, { format: args.value('format') }, rules);
  try {
    const image =
      opened !== undefined && wanted !== undefined ? await showingSnapshot(opened, wanted) : opened;
    const measured = await measureTarget(args.value('target-format') ?? 'raw', list, image, size ?? 0, rules);
    context.out(output === 'human' ? measuredText(measured) : measuredJson(measured));
  } finally {
    await opened?.close();
  }
  return 0;
}

function measuredText({ required, fullyAllocated, bitmaps }: Measured): string {
  const lines = [`required size: ${required}`, `fully allocated size: ${fullyAllocated}`];
  if (bitmaps !== undefined) lines.push(`bitmaps size: ${bitmaps}`);
  return `${lines.join('\n')}\n`;
}

function measuredJson({ required, fullyAllocated, bitmaps }: Measured): string {
  return `${jsonText({ bitmaps, required, 'fully-allocated': fullyAllocated })}\n`;
}

const sectorBytes = 512;

async function measureTarget(
  format: string,
  list: string,
  image: DiskImage | undefined,
  size: number,
  { secrets, context }: NamingRules,
): Promise<Measured> {
  if (format !== 'qcow2' && format !== 'raw') {
    throw new CommandFailure(
      measurable.has(format)
        ? `Format '${format}' is not supported`
        : otherFormats.has(format)
          ? `Block driver '${format}' does not support size measurement`
          : `Unknown file format '${format}'`,
    );
  }
  const values = optionValues(format, list, context);
  const diskBytes = image?.device.sizeBytes ?? Math.ceil(size / sectorBytes) * sectorBytes;
  if (format === 'raw') return { required: diskBytes, fullyAllocated: diskBytes };
  return await measureQcow2(values, diskBytes, image, secrets);
}

const measurable = new Set(['luks']);
const otherFormats = new Set(['vmdk', 'vhdx', 'vpc', 'vdi', 'qcow', 'qed', 'parallels']);

function optionValues(format: 'qcow2' | 'raw', list: string, { programName }: CommandContext): OptionValues {
  try {
    return parseOptionList(format === 'qcow2' ? qcow2Options : rawFileOptions, list, '');
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    throw new CommandFailure(
      `${error.message.replace(/^: /, '')}\n${programName}: Invalid options for file format '${format}'`,
      { cause: error },
    );
  }
}

async function measureQcow2(
  values: OptionValues,
  diskBytes: number,
  image: DiskImage | undefined,
  secrets: Secrets,
): Promise<Measured> {
  const { version, shape } = shapeOf(values);
  const preallocation = preallocationOf(values);
  const luksBytes = await encryptionBytes(values, secrets);
  if (isTooLarge(diskBytes, shape)) refuse('The image size is too large (try using a larger cluster size)');
  const allIsThere = values.has('backing_file') || preallocation === 'full' || preallocation === 'falloc';
  const data = image === undefined ? 0 : allIsThere ? diskBytes : await dataBytes(image, shape.clusterBytes);
  const roundedLuks = Math.ceil(luksBytes / shape.clusterBytes) * shape.clusterBytes;
  const fullyAllocated = fullyAllocatedBytes(diskBytes, shape) + roundedLuks;
  const roundedDisk = Math.ceil(diskBytes / shape.clusterBytes) * shape.clusterBytes;
  const isFull = preallocation === 'full' || preallocation === 'falloc';
  const bitmaps =
    version === 3 && image?.image !== undefined
      ? bitmapBytes(await image.image.bitmaps(), image.image.sizeBytes, shape)
      : undefined;
  return { required: fullyAllocated - roundedDisk + (isFull ? roundedDisk : data), fullyAllocated, bitmaps };
}

function refuse(message: string): never {
  throw new CommandFailure(message);
}

function shapeOf(values: OptionValues): { readonly version: 2 | 3; readonly shape: MeasuredShape } {
  const number = (name: string, otherwise: bigint): bigint => {
    const value = values.get(name)?.value;
    return typeof value === 'bigint' ? value : otherwise;
  };
  const clusterBytes = number('cluster_size', 65536n);
  if (clusterBytes < 512n || clusterBytes > 2n ** 21n || (clusterBytes & (clusterBytes - 1n)) !== 0n) {
    refuse('Cluster size must be a power of two between 512 and 2048k');
  }
  const extendedL2 = values.get('extended_l2')?.value === true;
  const compat = values.get('compat')?.text ?? '1.1';
  if (!['0.10', 'v2', '1.1', 'v3'].includes(compat)) refuse(`Invalid compatibility level: '${compat}'`);
  const version = compat === '0.10' || compat === 'v2' ? 2 : 3;
  if (extendedL2 && clusterBytes < 16384n) {
    refuse('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes');
  }
  const refcountBits = number('refcount_bits', 16n);
  if (refcountBits < 1n || refcountBits > 64n || (refcountBits & (refcountBits - 1n)) !== 0n) {
    refuse('Refcount width must be a power of two and may not exceed 64 bits');
  }
  if (version < 3 && refcountBits !== 16n) {
    refuse(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
  const journalBytes = journalAreaBytes(values, version, Number(clusterBytes), refuse);
  const shape = {
    ...{ clusterBytes: Number(clusterBytes), refcountBits: Number(refcountBits) },
    ...{ extendedL2, journalBytes },
  };
  return { version, shape };
}

function preallocationOf(values: OptionValues): string {
  const mode = values.get('preallocation')?.text ?? 'off';
  if (['off', 'metadata', 'falloc', 'full'].includes(mode)) return mode;
  return refuse(`invalid parameter value: ${mode}`);
}

async function encryptionBytes(values: OptionValues, secrets: Secrets): Promise<number> {
  // Nothing but LUKS has a header of its own.
  if (values.get('encrypt.format')?.text !== 'luks') return 0;
  const settings = encryptionSettings(values, refuse);
  if (settings === undefined) return 0;
  secrets.bytes(settings.secretId);
  const { luksHeaderBytes } = await import('@qcow2/crypto');
  return luksHeaderBytes(settings);
}

/** What is data, in whole clusters of the image to be made. */
async function dataBytes({ layers, device }: DiskImage, clusterBytes: number): Promise<number> {
  let bytes = 0;
  let counted = 0;
  for await (const { data, zero, offset, lengthBytes } of blockStatuses(layers, 0, device.sizeBytes)) {
    if (!data || zero) continue;
    const from = Math.max(counted, Math.floor(offset / clusterBytes) * clusterBytes);
    const end = Math.ceil((offset + lengthBytes) / clusterBytes) * clusterBytes;
    if (end <= from) continue;
    bytes += end - from;
    counted = end;
  }
  return bytes;
}
