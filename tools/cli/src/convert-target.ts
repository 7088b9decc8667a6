/** The image that a copy goes to: made for it, or there already; and what the engine is to know of it. */

import { Qcow2Error } from '@qcow2/spec';
import type { CommandContext } from './command.ts';
import { type CopyTarget, pieceBytesFor } from './copy/disk-copy.ts';
import {
  optionsHelp,
  qcow2Options,
  rawFileOptions,
  rawOptions,
  refuseUnsupported,
} from './create-options.ts';
import { type DiskImage, type NamingRules, openDiskImage } from './disk-image.ts';
import { CommandFailure, describeError } from './failures.ts';
import { createQcow2, createRaw, creationPath, sameFile } from './image-creation.ts';
import { type ListedOption, type OptionValues, parseOptionList } from './option-list.ts';

export interface WantedTarget {
  readonly name: string;
  readonly format: string;
  /** It is there, and is written over. */
  readonly exists: boolean;
  readonly imageOpts: boolean;
  /** Of one that is there: it reads as zeros. */
  readonly isZero: boolean;
  readonly backing: string | undefined;
  readonly backingFormat: string | undefined;
  /** `-o`. */
  readonly optionList: string;
}

/** The options of a target that is to be made, looked through and found good. */
export interface TargetPlan {
  readonly format: string;
  readonly values: OptionValues;
  /** The target is a difference to another image. */
  readonly hasBacking: boolean;
}

/** `-o help`. @param target its name, where one was given: a file has options of its own */
export function targetHelp(format: string, target: string | undefined): string {
  const text = optionsHelp(format, knownOptions(format, target !== undefined));
  if (target !== undefined) return text.replace(/^Supported .* options:/, 'Supported options:');
  return (
    `${text}\nThe protocol level may support further options.\n` +
    'Specify the target filename to include those options.\n'
  );
}

function knownOptions(format: string, withFile: boolean): readonly ListedOption[] {
  if (format === 'qcow2') return qcow2Options;
  if (format === 'raw') return withFile ? rawFileOptions : rawOptions;
  throw new CommandFailure(`Unknown file format '${format}'`);
}

export interface TargetUse {
  readonly sizeBytes: number;
  readonly compressed: boolean;
  readonly withBitmaps: boolean;
}

/** What is wrong with the target that was asked for shows here, and no file is touched. @throws CommandFailure */
export function planTarget(
  wanted: WantedTarget,
  { sizeBytes, compressed, withBitmaps }: TargetUse,
): TargetPlan {
  const { format, exists } = wanted;
  const values: OptionValues = exists ? new Map() : parsedOptions(format, wanted.optionList);
  if (!exists) addBacking(wanted, values);
  values.set('size', { text: String(sizeBytes), value: BigInt(sizeBytes) });
  const hasBacking = exists ? wanted.backing !== undefined : values.has('backing_file');
  if (!exists && hasBacking && !values.has('backing_fmt')) {
    throw new CommandFailure('Use of backing file requires explicit backing format');
  }
  if (compressed && format === 'raw') {
    throw new CommandFailure('Compression not supported for this file format');
  }
  if (compressed && values.has('encrypt.format')) {
    throw new CommandFailure('Compression and encryption not supported at the same time');
  }
  const isOld = ['0.10', 'v2'].includes(values.get('compat')?.text ?? '');
  if (withBitmaps && (format === 'raw' || isOld)) {
    throw new CommandFailure(`Format driver '${format}' does not support bitmaps`);
  }
  if (wanted.isZero && hasBacking) {
    throw new CommandFailure('Cannot use --target-is-zero when the destination image has a backing file');
  }
  return { format, values, hasBacking };
}

function parsedOptions(format: string, list: string): OptionValues {
  const options = knownOptions(format, true);
  try {
    const values = parseOptionList(options, list, '');
    refuseUnsupported(options, values, '');
    return values;
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    throw new CommandFailure(error.message.replace(/^: /, ''), { cause: error });
  }
}

function addBacking({ backing, backingFormat, format }: WantedTarget, values: OptionValues): void {
  if (backing !== undefined && format === 'raw') {
    throw new CommandFailure("Backing file not supported for file format 'raw'");
  }
  if (backingFormat !== undefined && format === 'raw') {
    throw new CommandFailure("Backing file format not supported for file format 'raw'");
  }
  if (backing !== undefined) values.set('backing_file', { text: backing, value: backing });
  if (backingFormat !== undefined) values.set('backing_fmt', { text: backingFormat, value: backingFormat });
}

/** A target that is ready to be written to. */
export interface OpenedTarget {
  readonly image: DiskImage;
  /** What it shows of its backing file ends here; undefined where it shows none. */
  readonly backingBytes: number | undefined;
  /** What is not written reads as zeros. */
  readonly readsZeros: boolean;
}

/** Make it, unless it is there, and open it. @param doing what a failure to make it begins with, behind its name. @throws CommandFailure */
export async function openTarget(
  wanted: WantedTarget,
  plan: TargetPlan,
  sources: readonly DiskImage[],
  rules: NamingRules,
  doing: string = `error while converting ${wanted.format}`,
): Promise<OpenedTarget> {
  const { name, exists } = wanted;
  if (!exists) await makeTarget(wanted, plan, sources, rules, `${name}: ${doing}`);
  const image = await openDiskImage(
    name,
    {
      format: wanted.imageOpts ? undefined : plan.format,
      readOnly: false,
      keySecret: plan.values.get('encrypt.key-secret')?.text,
    },
    { ...rules, imageOpts: wanted.imageOpts, shared: false },
  );
  const backing = plan.hasBacking ? image.layers[1] : undefined;
  // A disk of the machine holds what it held; it can not be made empty.
  const isFresh = !exists && (plan.format === 'qcow2' || image.device.capabilities.resize);
  return {
    image,
    backingBytes: plan.hasBacking ? (backing?.device.sizeBytes ?? 0) : undefined,
    readsZeros: exists ? wanted.isZero : isFresh && !plan.hasBacking,
  };
}

async function makeTarget(
  { name }: WantedTarget,
  plan: TargetPlan,
  sources: readonly DiskImage[],
  { secrets, access }: NamingRules,
  subject: string,
): Promise<void> {
  if (sources.some(({ layers }) => layers.some(({ path }) => sameFile(path, name)))) {
    throw new CommandFailure(
      `${subject}: Failed to get "write" lock\nIs another process using the image [${name}]?`,
    );
  }
  const path = creationPath(name);
  if (plan.format === 'raw') await createRaw(path, plan.values, subject, access?.flush);
  else await createQcow2(path, plan.values, secrets, name, subject, access?.flush);
}

export interface TargetWriting {
  readonly compressed: boolean;
  /** Zeros of this length take no space; 0: they do. */
  readonly sparseBytes: number;
  /** Bytes are copied by whoever has them, where that can be. */
  readonly offload?: boolean;
}

const usualUnitBytes = 4096;
const sectorBytes = 512;

/** The target as the engine writes to it. */
export function copyTarget({ image, readsZeros }: OpenedTarget, how: TargetWriting): CopyTarget {
  const { device } = image;
  const qcow2 = image.image;
  const sparseUnit = how.sparseBytes === 0 ? usualUnitBytes : 2 ** Math.floor(Math.log2(how.sparseBytes));
  const placeBytes = placeBytesOf(image, how.compressed);
  const unitBytes = Math.max(sparseUnit, placeBytes);
  return {
    placeBytes,
    unitBytes,
    write: (offset, bytes) =>
      how.compressed && qcow2 !== undefined
        ? qcow2.writeCompressed(offset, bytes)
        : device.write(offset, bytes),
    copyFrom:
      how.offload === true && device.copyFrom !== undefined
        ? async (offset, from) => (await device.copyFrom?.(from, offset)) ?? 0
        : undefined,
    zero: (offset, lengthBytes) =>
      readsZeros ? undefined : zeroInPieces(image, offset, lengthBytes, unitBytes),
  };
}

/** What takes its place in the image as a whole. */
function placeBytesOf({ image }: DiskImage, compressed: boolean): number {
  if (image === undefined) return sectorBytes;
  const { clusterBytes } = image;
  return image.info().extendedL2 && !compressed ? clusterBytes / 32 : clusterBytes;
}

/** Not all at once: a flush of the journal between two of them lets others on. */
async function zeroInPieces(
  { device }: DiskImage,
  offset: number,
  lengthBytes: number,
  unitBytes: number,
): Promise<void> {
  const most = 64 * pieceBytesFor(unitBytes);
  for (let done = 0; done < lengthBytes; done += most) {
    await device.writeZeroes(offset + done, Math.min(most, lengthBytes - done), { mayUnmap: true });
  }
}

/** A target that was begun and not finished looks like any other: who reads on must know. */
export async function tellingIncomplete(
  name: string,
  { programName }: CommandContext,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    const isOurs = error instanceof Qcow2Error;
    if (!isOurs) throw error;
    const why = error.code === 'ABORTED' ? 'interrupted' : describeError(error);
    throw new CommandFailure(`${why}\n${programName}: '${name}' is incomplete`, { cause: error });
  }
}
