/**
 * The two files of an image with an external data file, for logs that know one: a flush of the image file is a flush
 * of both, the data file first. A file that nothing was written to since its last flush is not flushed again, so a
 * guest's flush costs at most one for each: bytes of a new cluster are made durable in the data file, the record or the
 * table that maps it in the image file, in this order and with nothing else in between.
 *
 * Crash argument. Storage keeps no order between two files; completed flushes are all there is. What logs rely on is
 * that a flush covers what was written before it began, in whichever file: it does. So a mapping enters a
 * record, or is written in place, only when a flush has covered the bytes that it leads to [DAT-003], and a guest's flush
 * is acknowledged when both files are. A crash between the two flushes leaves a flush that was not acknowledged.
 *
 * Each guest cluster has one place in the data file, which it keeps. So a cluster that is unmapped, or made to read as
 * zeros, and then written anew goes where its old bytes stand, perhaps before that is durable. A crash then shows
 * the old mapping over sectors of which each holds the old bytes, zeros, or the new ones: all of them what the guest
 * has written there since the last flush, or had before. Nobody else's bytes can ever stand there.
 *
 * A raw data file is also read without the image, so whatever a crash leaves, both must show the same [DAT-005]: a
 * cluster that is not mapped is filled with zeros and mapped, and that is durable, before the guest's bytes are written
 * there; it is never unmapped again; and what is to read as zeros is written as zeros. From then on the tables say
 * nothing that the file does not say.
 */
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';
import { isPromise } from '@qcow2/block-device';

/** Whether a file was written to since a flush of it began. */
export class WriteMark {
  #isSet = false;

  set(): void {
    this.#isSet = true;
  }

  /** A flush begins: what is done by now it covers. Returns whether there is anything. */
  take(): boolean {
    const wasSet = this.#isSet;
    this.#isSet = false;
    return wasSet;
  }
}

export class ImageBesideData implements BlockDevice {
  readonly #image: BlockDevice;
  readonly #flushData: () => void | Promise<void>;
  readonly #unflushed = new WriteMark();
  #underWay: Promise<void> | undefined;

  /** @param flushData makes durable what the data file owes; called at the beginning of each flush */
  constructor(image: BlockDevice, flushData: () => void | Promise<void>) {
    this.#image = image;
    this.#flushData = flushData;
    // Whoever had the file before may have left something.
    this.#unflushed.set();
  }

  get capabilities(): DeviceCapabilities {
    return this.#image.capabilities;
  }

  get sizeBytes(): number {
    return this.#image.sizeBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    return this.#image.read(offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#noted(this.#image.write(offset, bytes, options));
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    return this.#noted(this.#image.discard(offset, lengthBytes, options));
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    return this.#noted(this.#image.writeZeroes(offset, lengthBytes, options));
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#noted(this.#image.resize(sizeBytes));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#image.extents(offset, lengthBytes);
  }

  /** Both files, the data file first. One that begins while another is under way waits for that one: it relies on it. */
  flush(options?: FlushOptions): void | Promise<void> {
    if (this.#underWay !== undefined) return this.#underWay.then(() => this.flush(options));
    const done = this.#flushBoth(options);
    if (!isPromise(done)) return;
    this.#underWay = done.finally(() => {
      this.#underWay = undefined;
    });
    return this.#underWay;
  }

  #flushBoth(options: FlushOptions | undefined): void | Promise<void> {
    const unflushed = this.#unflushed.take();
    const done = this.#flushData();
    if (!unflushed) return done;
    return isPromise(done) ? done.then(() => this.#image.flush(options)) : this.#image.flush(options);
  }

  /** The image file; the data file is closed by who opened it. */
  close(): void | Promise<void> {
    return this.#image.close();
  }

  #noted(done: void | Promise<void>): void | Promise<void> {
    if (isPromise(done)) return done.then(() => this.#unflushed.set());
    this.#unflushed.set();
  }
}
