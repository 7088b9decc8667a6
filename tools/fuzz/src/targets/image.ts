/**
 * Whole images, opened as anybody opens them: for reading, for writing, by the check. `JournalTarget` damages their
 * journal, `TablesTarget` their tables (`repair.ts` asks a repair of those); what must hold is the same:
 *
 * - an error is one of ours, with a code, and where it is about the format, with a clause;
 * - a read-only open, and an open that is refused, have not changed one byte;
 * - guest data never goes over the header, the tables held whole, or the journal; nothing goes far behind the file;
 * - an image that could be opened for writing, and was closed, can be opened again.
 */
import { type IoEvent, MemoryDevice } from '@qcow2/block-device';
import type { ClusterCompression } from '@qcow2/codec';
import { checkImage, type OpenOptions, openImage, probeImage, type Qcow2Image } from '@qcow2/driver';
import { GuardedDevice } from '../guarded-device.ts';
import type { ImageBase } from '../images.ts';
import { Random } from '../random.ts';
import type { Verdict } from '../target.ts';

/** What a request to a damaged image may be answered with, besides errors of format. */
const requestCodes = ['NO_SECRET', 'FAILED_EARLIER', 'NO_SPACE'] as const;
/** What a change of the whole disk may be answered with: damage that is met half way ends writing. */
const diskCodes = [...requestCodes, 'INVALID_ARGUMENT', 'UNSUPPORTED_OPERATION', 'WRITE_FAILED'] as const;
const openCodes = ['NO_SECRET', 'NO_SPACE'] as const;
/** Bytes behind the file's end that opening an image may come to use. */
export const openGrowthBytes = 256 << 20;
/** The same for a few requests, besides what two refcount blocks count: where one is full, the next one's clusters are free. */
const growthBytes = 4 << 20;

export class ImageProbe {
  readonly device: GuardedDevice;
  readonly #base: ImageBase;
  readonly #compression: ClusterCompression | undefined;

  /** @param compression with it, clusters are written in compressed form too */
  constructor(base: ImageBase, compression?: ClusterCompression) {
    this.#base = base;
    this.#compression = compression;
    this.device = new GuardedDevice(base.bytes, { operations: 60_000, bytes: 64 << 20 });
  }

  /** One way of asking: read-only, for writing, or the check. */
  async run(variant: number, verdict: Verdict): Promise<void> {
    this.device.rearm();
    const way = variant % 4;
    if (way === 0) await this.#read(verdict);
    else if (way === 1) await this.#check(verdict);
    else await this.#write(variant, verdict);
    if (this.device.overBudget) verdict.finding('the budget of device operations is used up');
    if (this.device.violation !== undefined) verdict.finding(this.device.violation);
  }

  options(readOnly: boolean): OpenOptions {
    const random = new Random(9);
    const { backing } = this.#base;
    return {
      readOnly,
      random: (into) => random.fill(into),
      cache: { l2CacheSizeBytes: 4096, cacheCleanIntervalMs: 0 },
      backing: backing === undefined ? 'none' : MemoryDevice.fromBytes(backing),
      ...(this.#compression === undefined ? {} : { compression: this.#compression }),
    };
  }

  async #read(verdict: Verdict): Promise<void> {
    this.device.readOnly = true;
    const image = await verdict.attemptAsync('open', () => openImage(this.device, this.options(true)));
    if (image === undefined) return;
    verdict.attempt('info', () => image.info());
    await this.#readSome(image, verdict);
    await this.#readBitmaps(image, verdict);
    await verdict.attemptAsync('close', () => image.close());
  }

  async #check(verdict: Verdict): Promise<void> {
    this.device.readOnly = true;
    const report = await verdict.attemptAsync('check', () => checkImage(this.device));
    if (report === undefined) return;
    verdict.noteCount('corruptions', report.corruptions);
    verdict.noteCount('leaks', report.leaks);
    for (const { code, clause } of report.findings.slice(0, 6)) verdict.note(`${code},${clause ?? ''}`);
  }

  async #write(variant: number, verdict: Verdict): Promise<void> {
    const { device } = this;
    let endBytes = device.sizeBytes + openGrowthBytes;
    device.guard = (offset, length) =>
      offset + length > endBytes ? 'far behind the end of the file' : undefined;
    const image = await verdict.attemptAsync('open', () => openImage(device, this.options(false)), {
      codes: openCodes,
    });
    if (image === undefined) return;
    const counted = (8 * image.clusterBytes ** 2) / 2 ** image.header.refcountOrder;
    endBytes = device.sizeBytes + growthBytes + 2 * counted;
    device.guard = (offset, length, event) =>
      offset + length > endBytes ? 'far behind the end of the file' : forbidden(image, offset, length, event);
    await this.#writeSome(image, variant, verdict);
    if (variant % 8 === 6) await this.#changeDisk(image, verdict);
    if (variant % 8 === 3) await this.#changeBitmaps(image, verdict);
    const closed = await verdict.attemptAsync('close', () => image.close().then(() => true), {
      codes: requestCodes,
    });
    device.guard = undefined;
    if (closed !== true) return;
    // What could be opened for writing and was closed can be opened again.
    const again = await verdict.attemptAsync('open again', () => probeImage(device));
    if (again === undefined && !device.overBudget) verdict.finding('it was closed, and does not open again');
    again?.abandon();
  }

  async #readSome(image: Qcow2Image, verdict: Verdict): Promise<void> {
    const end = image.sizeBytes;
    const buffer = new Uint8Array(4096);
    // The whole of a small disk; of one whose size was damaged, its ends.
    const places = new Set<number>();
    for (let at = 0; at < Math.min(end, 65536); at += buffer.length) places.add(at);
    for (const at of [end - buffer.length, end / 2]) if (at > 0) places.add(Math.floor(at / 512) * 512);
    for (const at of places) {
      const part = buffer.subarray(0, Math.min(buffer.length, end - at));
      await verdict.attemptAsync('read', () => image.read(at, part));
      await verdict.attemptAsync('extents', () => image.extents(at, part.length));
    }
  }

  async #writeSome(image: Qcow2Image, variant: number, verdict: Verdict): Promise<void> {
    const random = new Random(variant);
    const most = Math.min(image.sizeBytes, 65536);
    for (let count = 0; count < 6; count++) {
      const length = Math.min(most, 512 * (1 + random.below(12)));
      const at = random.below(Math.floor((most - length) / 512) + 1) * 512;
      const bytes = new Uint8Array(length).fill(0xee);
      const kind = random.below(this.#compression === undefined ? 6 : 7);
      await verdict.attemptAsync(
        `request${kind}`,
        () => {
          if (kind === 0) return image.flush();
          if (kind === 1) return image.discard(at, length);
          if (kind === 2) return image.writeZeroes(at, length);
          if (kind === 3) return image.read(at, bytes);
          if (kind === 6) return this.#writeCompressed(image, at);
          return image.write(at, bytes);
        },
        { codes: requestCodes },
      );
    }
    await verdict.attemptAsync('flush', () => image.flush(), { codes: requestCodes });
  }

  /** The cluster at a place. */
  #writeCompressed(image: Qcow2Image, at: number): void | Promise<void> {
    const start = at - (at % image.clusterBytes);
    const end = Math.min(image.sizeBytes, start + image.clusterBytes);
    return image.writeCompressed(start, new Uint8Array(end - start).fill(0xcc));
  }

  async #readBitmaps(image: Qcow2Image, verdict: Verdict): Promise<void> {
    const bitmaps = await verdict.attemptAsync('bitmaps', () => image.bitmaps(), { codes: requestCodes });
    for (const { name, inconsistent } of bitmaps?.slice(0, 3) ?? []) {
      if (inconsistent) continue;
      await verdict.attemptAsync('dirty', () => image.dirtyRanges(name), { codes: requestCodes });
    }
  }

  /** Each bitmap that is there is changed in every way, and a new one is made. */
  async #changeBitmaps(image: Qcow2Image, verdict: Verdict): Promise<void> {
    const allowed = { codes: diskCodes };
    await this.#readBitmaps(image, verdict);
    await verdict.attemptAsync('add', () => image.addBitmap('x', { granularityBytes: 512 }), allowed);
    const bitmaps = await verdict.attemptAsync('bitmaps', () => image.bitmaps(), allowed);
    for (const { name } of bitmaps?.slice(0, 3) ?? []) {
      await verdict.attemptAsync('merge', () => image.mergeBitmap('x', name), allowed);
      await verdict.attemptAsync('clear', () => image.clearBitmap(name), allowed);
      await verdict.attemptAsync('turn off', () => image.disableBitmap(name), allowed);
      await verdict.attemptAsync('remove', () => image.removeBitmap(name), allowed);
    }
  }

  /** Snapshots that are there, and a new one, and a smaller disk. */
  async #changeDisk(image: Qcow2Image, verdict: Verdict): Promise<void> {
    const allowed = { codes: diskCodes };
    const [first] = image.snapshots;
    if (first !== undefined) {
      const { id } = first;
      const shown = await verdict.attemptAsync('show', () => image.openSnapshot({ id }), allowed);
      const bytes = new Uint8Array(4096);
      if (shown !== undefined && shown.sizeBytes >= bytes.length) {
        await verdict.attemptAsync('read snapshot', () => shown.read(0, bytes), allowed);
      }
      await verdict.attemptAsync('apply', () => image.applySnapshot({ id }), allowed);
    }
    await verdict.attemptAsync(
      'snapshot',
      () => image.createSnapshot({ name: 'x', date: new Date(0) }),
      allowed,
    );
    const half = Math.max(512, Math.floor(image.sizeBytes / 1024) * 512);
    await verdict.attemptAsync('shrink', () => image.resize(half, { shrink: true }), allowed);
    for (const { id } of [...image.snapshots].slice(0, 3)) {
      await verdict.attemptAsync('delete', () => image.deleteSnapshot({ id }), allowed);
    }
  }
}

/** Why a change of the file may not be; undefined where it may. */
function forbidden(
  image: Qcow2Image,
  offset: number,
  lengthBytes: number,
  event: IoEvent | undefined,
): string | undefined {
  if (event !== 'write_data' && event !== 'write_compressed') return undefined;
  const { header } = image;
  const journal = image.journalStatus();
  const clusterBytes = image.clusterBytes;
  const touches = (at: number, length: number): boolean => offset < at + length && at < offset + lengthBytes;
  if (touches(0, clusterBytes)) return 'guest data over the header';
  if (touches(header.l1Offset, header.l1Entries * 8)) return 'guest data over the L1 table';
  if (touches(header.refcountTableOffset, header.refcountTableClusters * clusterBytes)) {
    return 'guest data over the refcount table';
  }
  if (
    journal !== undefined &&
    journal.state !== 'stale' &&
    touches(journal.hostOffset, journal.lengthBytes)
  ) {
    return 'guest data over the journal';
  }
  return undefined;
}
