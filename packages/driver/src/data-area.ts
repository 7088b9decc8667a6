/**
 * Where guest data stands: every read and write of the bytes of a data cluster goes through here, and nothing else
 * does. Tables, and whatever a mapping never leads to, are the core's.
 *
 * A place is named twice: by its host offset, where the bytes stand, and by the guest offset that a mapping leads there from. Over
 * a range both advance together: who joins clusters into one request joins what is in a row on both sides.
 *
 * A mapping comes from the image, and is not believed: a write is refused where the image has a table. What is written
 * is noted with the log when it is done, so that the flush before the next mapping covers it.
 */
import { isPromise, readPadded, type Task } from '@qcow2/block-device';
import type { ImageCore } from './image-core.ts';

const readData = { event: 'read_data' } as const;
const writeData = { event: 'write_data' } as const;
const writeRest = { event: 'cow_write' } as const;

export class DataArea {
  readonly #core: ImageCore;
  #guestBytesWritten = 0;

  constructor(core: ImageCore) {
    this.#core = core;
  }

  /** The guest's bytes that `write` has put in place so far. */
  get guestBytesWritten(): number {
    return this.#guestBytesWritten;
  }

  /** Bytes in place at a host range, zeros beyond the end of the file. Synchronous where the device is. */
  read(hostOffset: number, _guestOffset: number, into: Uint8Array): void | Promise<void> {
    return readPadded(this.#core.device, hostOffset, into, readData);
  }

  /**
   * The source of a copy within the area: bytes as they stand, for a place that another guest offset leads to.
   */
  readForCopy(hostOffset: number, into: Uint8Array): void | Promise<void> {
    return this.#core.readPatched(hostOffset, into, { event: 'cow_read' });
  }

  /**
   * Hand bytes to the device, and nothing else: no task, for the usual write. When it is done the caller tells the
   * log (`noteDeviceWrite`).
   * @throws OVERLAP, TRUNCATED as `write`
   */
  put(hostOffset: number, _guestOffset: number, bytes: Uint8Array): void | Promise<void> {
    this.#core.refuseMetadata(hostOffset, bytes.length);
    return this.#core.device.write(hostOffset, bytes, writeData);
  }

  /**
   * Write guest bytes in place. Noted when it is done, not when it begins: a flush that starts in between does not
   * cover it, and must not take the note away. The bytes are the caller's again on return.
   * @throws OVERLAP where the range belongs to a table of the image: the mapping that led here is wrong; TRUNCATED
   *   where it is not in the file, nor about to be
   */
  *write(hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<void> {
    const done = this.put(hostOffset, guestOffset, bytes);
    if (isPromise(done)) yield done;
    this.#core.log.noteDeviceWrite();
    this.#guestBytesWritten += bytes.length;
  }

  /** As `write`, for bytes around the guest's. They were read from where the guest saw them before. */
  *writeAround(hostOffset: number, _guestOffset: number, bytes: Uint8Array): Task<void> {
    yield* this.#writeRest(hostOffset, bytes);
  }

  /** As `writeAround`, for what a copy or a fill of the log brings: only the host offset of such a place is known. */
  *writeBrought(hostOffset: number, bytes: Uint8Array): Task<void> {
    yield* this.#writeRest(hostOffset, bytes);
  }

  *#writeRest(hostOffset: number, bytes: Uint8Array): Task<void> {
    this.#core.refuseMetadata(hostOffset, bytes.length);
    const done = this.#core.device.write(hostOffset, bytes, writeRest);
    if (isPromise(done)) yield done;
    this.#core.log.noteDeviceWrite();
  }
}
