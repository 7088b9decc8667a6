/**
 * A file of which some sectors can not be read, for who wants the rest: a read that fails is made again sector by sector, and what can not
 * be read is zeros, and noted.
 *
 * Invariants: nothing is ever written; what was not read is in `unreadable`, so nobody takes those zeros for the file's. With `tablesOnly` this
 * goes for tables, and a read of guest bytes fails as it does below: who copies looks for the sectors himself.
 */
import {
  type BlockDevice,
  type IoEvent,
  isPromise,
  ReadOnlyDevice,
  type ReadOptions,
} from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';

const sectorBytes = 512;
const guestReads: ReadonlySet<IoEvent | undefined> = new Set(['read_data', 'cow_read', 'read_compressed']);

export class SalvageDevice extends ReadOnlyDevice {
  /** First bytes of the sectors that could not be read. */
  readonly unreadable: Set<number>;
  readonly #file: BlockDevice;
  readonly #tablesOnly: boolean;

  /** Closing this closes `file`. @param unreadable shared with another one on the same file */
  constructor(file: BlockDevice, tablesOnly: boolean, unreadable = new Set<number>()) {
    super(file);
    this.#file = file;
    this.#tablesOnly = tablesOnly;
    this.unreadable = unreadable;
  }

  override read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    if (this.#tablesOnly && guestReads.has(options?.event)) return super.read(offset, into, options);
    try {
      const done = this.#file.read(offset, into, options);
      if (isPromise(done)) return done.catch((error: unknown) => this.#sectors(offset, into, error));
    } catch (error) {
      return this.#sectors(offset, into, error);
    }
  }

  /** Whether a range has a sector that could not be read. */
  isUnreadable(offset: number, lengthBytes: number): boolean {
    if (this.unreadable.size === 0) return false;
    const first = Math.floor(offset / sectorBytes) * sectorBytes;
    for (let at = first; at < offset + lengthBytes; at += sectorBytes) {
      if (this.unreadable.has(at)) return true;
    }
    return false;
  }

  async #sectors(offset: number, into: Uint8Array, error: unknown): Promise<void> {
    if (!isOfTheDevice(error)) throw error;
    for (let at = 0; at < into.length; ) {
      const end = Math.min(into.length, at + sectorBytes - ((offset + at) % sectorBytes));
      const sector = into.subarray(at, end);
      try {
        await this.#file.read(offset + at, sector);
      } catch (failure) {
        if (!isOfTheDevice(failure)) throw failure;
        sector.fill(0);
        this.unreadable.add(Math.floor((offset + at) / sectorBytes) * sectorBytes);
      }
      at = end;
    }
  }
}

function isOfTheDevice(error: unknown): boolean {
  return error instanceof Qcow2Error && ['READ_FAILED', 'SHORT_READ', 'FAULT_INJECTED'].includes(error.code);
}
