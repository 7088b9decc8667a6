/**
 * A file of the origin private file system, after the File System standard: one access at a time, zeros between the old end
 * and a write beyond it, 0 bytes at or beyond the end, nothing after `close`. A test may let it do less than it is asked
 * for, fail, or run into a quota.
 */
import type { OpfsFile, SyncAccess } from '../../src/index.ts';

export class PlayedFile implements OpfsFile {
  readonly name = 'disk';
  bytes: Uint8Array<ArrayBuffer>;
  isOpen = false;
  /** No call does more bytes. */
  mostBytes = Number.POSITIVE_INFINITY;
  quotaBytes = Number.POSITIVE_INFINITY;
  /** Called before each call; what it throws is that call's failure. */
  before: (call: keyof SyncAccess) => void = () => undefined;
  readonly log: (keyof SyncAccess)[] = [];

  constructor(bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0)) {
    this.bytes = bytes;
  }

  async createSyncAccessHandle(): Promise<SyncAccess> {
    if (this.isOpen) throw new DOMException('another access is open', 'NoModificationAllowedError');
    this.isOpen = true;
    let closed = false;
    const enter = (call: keyof SyncAccess): void => {
      if (closed) throw new DOMException('the access is closed', 'InvalidStateError');
      this.log.push(call);
      this.before(call);
    };
    return {
      read: (into, { at }) => {
        enter('read');
        const part = this.bytes.subarray(at, at + Math.min(into.length, this.mostBytes));
        into.set(part);
        return part.length;
      },
      write: (bytes, { at }) => {
        enter('write');
        const count = Math.min(bytes.length, this.mostBytes);
        this.#fit(Math.max(this.bytes.length, at + count));
        this.bytes.set(bytes.subarray(0, count), at);
        return count;
      },
      truncate: (sizeBytes) => {
        enter('truncate');
        this.#fit(sizeBytes);
      },
      getSize: () => {
        enter('getSize');
        return this.bytes.length;
      },
      flush: () => enter('flush'),
      close: () => {
        closed = true;
        this.isOpen = false;
      },
    };
  }

  #fit(sizeBytes: number): void {
    if (sizeBytes > this.quotaBytes) throw new DOMException('the quota is used up', 'QuotaExceededError');
    if (sizeBytes === this.bytes.length) return;
    const bytes = new Uint8Array(sizeBytes);
    bytes.set(this.bytes.subarray(0, sizeBytes));
    this.bytes = bytes;
  }
}
