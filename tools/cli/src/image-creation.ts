/**
 * Files are made here, for `create` and for what writes to a new image: what stands there is emptied only when every option has been
 * found good, and a failure removes what was begun.
 */
import { realpathSync, statSync, unlinkSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import { type CreateOptions, createImage } from '@qcow2/driver';
import { type FlushMode, openFile } from '@qcow2/fs';
import { Qcow2Error } from '@qcow2/spec';
import { qcow2Settings, rawReservation } from './create-options.ts';
import { newEncryption } from './encryption-options.ts';
import { CommandFailure, describeError } from './failures.ts';
import { besideImage, localPath } from './file-name.ts';
import { type ImageLock, lockToOverwrite } from './image-lock.ts';
import type { OptionValues } from './option-list.ts';
import { reserveSpace, type SpaceReservation } from './preallocation.ts';
import { openProtocol } from './protocol-device.ts';
import { isProtocolName, protocolNode, refuseCreation } from './protocol-name.ts';
import type { Secrets } from './secrets.ts';
import { systemReason } from './system-reason.ts';

/** By name, as qemu-img; and by what the names lead to, as the reader of a chain would find out. */
export function sameFile(first: string, second: string): boolean {
  if (first === second) return true;
  try {
    return realpathSync(localPath(first)) === realpathSync(localPath(second));
  } catch {
    return false;
  }
}

/** @param subject what messages begin with. @param flush of the file that is made; `none`: nothing of it is durable. @throws CommandFailure */
export async function createRaw(
  path: string,
  values: OptionValues,
  subject: string,
  flush?: FlushMode,
): Promise<void> {
  const size = values.get('size')?.value;
  const sizeBytes = typeof size === 'bigint' ? ((size + 511n) / 512n) * 512n : 0n;
  if (sizeBytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CommandFailure(`${subject}: Sizes of 8 PiB and more are not supported`);
  }
  const space = rawReservation(values, subject);
  const { device, lock } = await openTarget(path, subject, flush);
  try {
    if (device.capabilities.resize) await device.resize(Number(sizeBytes));
    else refuseSmall(device.sizeBytes, Number(sizeBytes), subject, path);
    if (space !== undefined) await reserveSpace(device, space);
  } catch (error) {
    if (error instanceof CommandFailure) throw error;
    throw new CommandFailure(`${subject}: Could not resize file: ${describeError(error)}`, { cause: error });
  } finally {
    await device.close();
    lock?.release();
  }
}

/** A disk of the machine has the size that it has. */
function refuseSmall(presentBytes: number, wantedBytes: number, subject: string, name: string): void {
  if (presentBytes >= wantedBytes) return;
  if (isProtocolName(name)) throw new CommandFailure(`${subject}: Cannot grow NBD nodes`);
  throw new CommandFailure(
    `${subject}: The device is too small: it has ${presentBytes} bytes of ${wantedBytes}`,
  );
}

/**
 * @param name what relative names in the image are seen from
 * @param subject what messages begin with
 * @param flush of the files that are made; `none`: nothing of them is durable
 * @throws CommandFailure
 */
export async function createQcow2(
  path: string,
  values: OptionValues,
  secrets: Secrets,
  name: string,
  subject: string = name,
  flush?: FlushMode,
): Promise<void> {
  const { dataFile, encrypt, space, ...settings } = qcow2Settings(values, subject);
  const encryption = encrypt === undefined ? undefined : await newEncryption(encrypt, secrets, subject);
  const dataPath = dataFile === undefined ? undefined : besideImage(name, dataFile.name);
  if (dataPath !== undefined && sameFile(name, dataPath)) {
    throw new CommandFailure(`${subject}: The data file is the image itself`);
  }
  // QEMU's order: the data file is made first, and empty, like the image.
  const data = dataPath === undefined ? undefined : await openTarget(localPath(dataPath), subject, flush);
  try {
    const options = {
      ...settings,
      ...(encryption === undefined ? {} : { encryption }),
      ...(dataFile === undefined || data === undefined
        ? {}
        : { dataFile: { ...dataFile, device: data.device } }),
    };
    await writeQcow2(path, { subject, flush }, options, space);
    if (space !== undefined && data !== undefined) await reserveSpace(data.device, space);
  } finally {
    await data?.device.close();
    data?.lock?.release();
  }
}

async function writeQcow2(
  path: string,
  { subject, flush }: { readonly subject: string; readonly flush: FlushMode | undefined },
  options: CreateOptions,
  space: SpaceReservation | undefined,
): Promise<void> {
  const { device, lock } = await openTarget(path, subject, flush);
  try {
    await createImage(device, options);
    if (space !== undefined) await reserveSpace(device, space);
    await device.close();
  } catch (error) {
    await device.close();
    removeUnfinished(path);
    throw new CommandFailure(`${subject}: ${describeError(error)}`, { cause: error });
  } finally {
    lock?.release();
  }
}

interface Target {
  readonly device: BlockDevice;
  /** Of a file that was there before. One that is made now, nobody else knows yet. */
  readonly lock: ImageLock | undefined;
}

async function openTarget(path: string, subject: string, flush: FlushMode = 'adaptive'): Promise<Target> {
  if (isProtocolName(path)) return { device: await openNoFile(path, subject), lock: undefined };
  let lock: ImageLock | undefined;
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) lock = await lockToOverwrite(path);
    return { device: openFile(path, { create: 'truncate', lock: 'writer', flush }), lock };
  } catch (error) {
    lock?.release();
    if (error instanceof Qcow2Error && error.code === 'IN_USE') {
      throw new CommandFailure(`${subject}: ${error.message}`, { cause: error });
    }
    throw new CommandFailure(`${subject}: Could not create '${path}': ${systemReason(error)}`, {
      cause: error,
    });
  }
}

/** What is no file is there already, and has the size that it has. */
async function openNoFile(name: string, subject: string): Promise<BlockDevice> {
  try {
    return (await openProtocol(await protocolNode(name), false)).device;
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    const why = "Protocol driver 'nbd' does not support image creation, and opening the image failed";
    throw new CommandFailure(`${subject}: ${why}: ${error.message}`, { cause: error });
  }
}

/** Where an image of this name is made. @throws CommandFailure for what can not be written to */
export function creationPath(name: string): string {
  if (!isProtocolName(name)) return localPath(name);
  refuseCreation(name);
  return name;
}

/** A disk is not removed; and whatever stands in the way of removing, the first error is the one to report. */
function removeUnfinished(path: string): void {
  try {
    if (statSync(path).isFile()) unlinkSync(path);
  } catch {
    // The failure that brought us here is the one to report.
  }
}
