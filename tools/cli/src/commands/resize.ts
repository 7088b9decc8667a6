/** `resize`: another size of the disk. qemu-img's options, texts and exit codes; the last word is always the size. */
import type { BlockDevice } from '@qcow2/block-device';
import { checkImage, type Qcow2Image } from '@qcow2/driver';
import { FileDevice } from '@qcow2/fs';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { dryRun, dryRunOption, nothingWritten } from '../dry-run.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { imageNameOptions, namedImage } from '../named-image.ts';
import { reserveRange } from '../preallocation.ts';
import { hasFixedSize } from '../protocol-device.ts';
import { parseSize } from '../sizes.ts';
import { withWritableImage } from '../writable-image.ts';

export const resize: Command = {
  operands: 'FILE [+|-]SIZE',
  lastWordIsOperand: true,
  options: [
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2, raw; found by itself if not given' },
    { name: 'shrink', help: 'the disk may become smaller, and lose what lies behind its new end' },
    { name: 'preallocation', argument: 'MODE', help: 'of what the disk gains: off, metadata, falloc, full' },
    dryRunOption,
    ...followOptions,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    ...imageNameOptions,
  ],
  notes:
    'A crash leaves the old size or the new one; with --preallocation the new one may lack some of its places.\n' +
    'Examples:\n' +
    '  qcow2 resize disk.qcow2 +10G\n' +
    '  qcow2 resize --shrink disk.qcow2 5G',
  run: runResize,
};

interface WantedSize {
  /** 1, -1: added to the size that the disk has; 0: instead of it. */
  readonly sign: 1 | -1 | 0;
  readonly bytes: bigint;
}

const modes = ['off', 'metadata', 'falloc', 'full'] as const;
type Mode = (typeof modes)[number];

function isMode(text: string): text is Mode {
  return (modes as readonly string[]).includes(text);
}

async function runResize(args: ParsedArguments, context: CommandContext): Promise<number> {
  const mode = args.value('preallocation') ?? 'off';
  if (!isMode(mode)) throw new CommandFailure(`Invalid preallocation mode '${mode}'`);
  const [name, sizeText, ...extra] = args.operands;
  if (name === undefined || sizeText === undefined || extra.length > 0) {
    throw usageFailure('Expecting image file name and size');
  }
  const wanted = sizeOperand(sizeText);
  const change = async (before: number, to: (sizeBytes: number) => void | Promise<void>): Promise<void> => {
    const sizeBytes = newSize(wanted, before);
    if (sizeBytes <= before && mode !== 'off') {
      throw new CommandFailure('Preallocation can only be used for growing images');
    }
    if (sizeBytes < before && !args.has('shrink')) throw notWithoutShrink(context);
    await to(sizeBytes);
  };
  const named = namedImage(args, name);
  const report = args.has('dry-run') ? new DryReport(name) : undefined;
  const closed = (before: number, after: number): void => report?.closed(before, after);
  await dryRun(report !== undefined, () =>
    withWritableImage(
      named,
      { follow: followPolicy(args), dryRun: report === undefined ? undefined : { closed } },
      (image, file, data) =>
        change(image.sizeBytes, async (sizeBytes) => {
          const before = image.sizeBytes;
          await report?.before(image, file, sizeBytes);
          await resizeImage(image, sizeBytes, mode);
          if (mode === 'falloc' || mode === 'full') await setAside(image, before, data, mode);
          await report?.after(image, file);
        }),
      (device) =>
        change(device.sizeBytes, (sizeBytes) => {
          report?.raw(device.sizeBytes, sizeBytes);
          return resizeRaw(named.fileName, device, sizeBytes, mode);
        }),
    ),
  );
  if (!args.has('quiet')) context.out(report === undefined ? 'Image resized.\n' : report.text);
  return 0;
}

/** What a dry run says: of the disk, of what it loses, and of the file. */
class DryReport {
  readonly #name: string;
  #sizes = { before: 0, after: 0 };
  #file = { before: 0, after: 0 };
  #clusters: { readonly before: number; after: number } | undefined;
  #lostBytes: number | undefined;

  constructor(name: string) {
    this.#name = name;
  }

  async before(image: Qcow2Image, file: BlockDevice, sizeBytes: number): Promise<void> {
    this.#sizes = { before: image.sizeBytes, after: sizeBytes };
    this.#lostBytes = await dataBytes(image, sizeBytes);
    // A journal that was dirty has been replayed, in memory; the check sees the image at rest.
    await image.quiesce();
    this.#clusters = { before: (await checkImage(file)).allocatedClusters, after: 0 };
  }

  async after(image: Qcow2Image, file: BlockDevice): Promise<void> {
    await image.quiesce();
    if (this.#clusters !== undefined) this.#clusters.after = (await checkImage(file)).allocatedClusters;
  }

  raw(before: number, after: number): void {
    this.#sizes = { before, after };
  }

  closed(before: number, after: number): void {
    this.#file = { before, after };
  }

  get text(): string {
    const { before, after } = this.#sizes;
    const clusters = this.#clusters;
    return (
      `'${this.#name}' would be resized: ${before} bytes, then ${after}\n` +
      (this.#lostBytes === undefined ? '' : `    data behind the new end: ${this.#lostBytes} bytes\n`) +
      (clusters === undefined
        ? ''
        : `    guest clusters with a place: ${clusters.before}, then ${clusters.after}\n`) +
      `    the file: ${this.#file.before} bytes, then ${this.#file.after}\n${nothingWritten}`
    );
  }
}

const askedBytes = 256 * 1024 * 1024;

/** What the image itself has from an offset on. */
async function dataBytes(image: Qcow2Image, from: number): Promise<number> {
  let bytes = 0;
  for (let at = from; at < image.sizeBytes; ) {
    for (const { kind, lengthBytes } of await image.extents(at, Math.min(askedBytes, image.sizeBytes - at))) {
      if (kind === 'data') bytes += lengthBytes;
      at += lengthBytes;
    }
  }
  return bytes;
}

function sizeOperand(text: string): WantedSize {
  const sign = text.startsWith('+') ? 1 : text.startsWith('-') ? -1 : 0;
  const size = parseSize(sign === 0 ? text : text.slice(1));
  if (typeof size === 'object') return { sign, bytes: size.bytes };
  throw new CommandFailure(
    "Parameter 'size' expects a non-negative number below 2^64\n" +
      'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
      'and exabytes, respectively.',
  );
}

function newSize({ sign, bytes }: WantedSize, before: number): number {
  const size = sign === 0 ? bytes : BigInt(before) + BigInt(sign) * bytes;
  if (size <= 0n || size >= 2n ** 63n) throw new CommandFailure('New image size must be positive');
  if (size <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(size);
  throw new CommandFailure('Sizes of 8 PiB and more are not supported');
}

function notWithoutShrink({ programName }: CommandContext): CommandFailure {
  return new CommandFailure(
    'Use the --shrink option to perform a shrink operation.\n' +
      `${programName}: warning: Shrinking an image will delete all data beyond the shrunken image's end. ` +
      'Before performing such an operation, make sure there is no important data there.',
  );
}

const sectorBytes = 512;

async function resizeImage(image: Qcow2Image, sizeBytes: number, mode: Mode): Promise<void> {
  if (sizeBytes % sectorBytes !== 0) throw new CommandFailure('The new size must be a multiple of 512');
  if (image.header.version < 3 && image.snapshots.length > 0) {
    throw new CommandFailure("Can't resize a v2 image which has snapshots");
  }
  try {
    const preallocation = mode === 'falloc' || mode === 'full' ? 'data' : mode;
    await image.resize(sizeBytes, { shrink: true, preallocation });
  } catch (error) {
    throw new CommandFailure(`Failed to resize: ${describeError(error)}`, { cause: error });
  }
}

/** Space for the places of what the disk has gained. Where there is not enough, the disk becomes what it was. */
async function setAside(
  image: Qcow2Image,
  before: number,
  file: BlockDevice,
  mode: 'falloc' | 'full',
): Promise<void> {
  // A dry run sets nothing aside.
  if (!(file instanceof FileDevice)) return;
  await image.quiesce();
  try {
    for (let at = before; at < image.sizeBytes; ) {
      const most = Math.min(askedBytes, image.sizeBytes - at);
      for (const extent of await image.placedExtents(at, most)) {
        at = extent.offset + extent.lengthBytes;
        if (extent.hostOffset === undefined || extent.offset < before) continue;
        const lengthBytes = Math.ceil(extent.lengthBytes / sectorBytes) * sectorBytes;
        await reserveRange(file, extent.hostOffset, lengthBytes, mode);
      }
    }
    await file.flush();
  } catch (error) {
    await image.resize(before, { shrink: true });
    throw new CommandFailure(`Failed to resize: ${describeError(error)}`, { cause: error });
  }
}

async function resizeRaw(name: string, device: BlockDevice, sizeBytes: number, mode: Mode): Promise<void> {
  if (await hasFixedSize(name, device.sizeBytes, sizeBytes)) return;
  if (mode === 'metadata') throw new CommandFailure('Unsupported preallocation mode: metadata');
  const before = device.sizeBytes;
  await device.resize(sizeBytes);
  if (mode === 'off' || !(device instanceof FileDevice)) return;
  try {
    await reserveRange(device, before, sizeBytes - before, mode);
    await device.flush();
  } catch (error) {
    await device.resize(before);
    throw new CommandFailure(`Failed to resize: ${describeError(error)}`, { cause: error });
  }
}
