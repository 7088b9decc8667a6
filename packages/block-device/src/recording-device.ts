/**
 * A device that remembers what was done to the one below it, in order, for a crash lab to take apart.
 *
 * Time is a counter: it moves by one whenever an operation starts or completes. So an operation is an
 * interval, and what a crash at time t leaves behind follows from the log alone:
 *
 *  - started at or after t: did not happen;
 *  - covered by a completed flush (`flush.completedAt <= t` and `operation.completedAt < flush.startedAt`, within its
 *    range where it has one), or written with FUA and completed by t: is durable;
 *  - everything else: may have happened in whole, in part, or not, in any order.
 *
 * An operation that failed keeps its place (`failed`), because a part of it may have reached the device.
 * Bytes are copied when a write starts. Serial numbers count logged operations from 0.
 */
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
import { isPromise } from './task.ts';

interface Recorded {
  /** Position in the log. */
  readonly serial: number;
  readonly event: IoEvent | undefined;
  readonly startedAt: number;
  /** Undefined while the operation is under way. */
  readonly completedAt: number | undefined;
  readonly failed: boolean;
}

export interface RecordedWrite extends Recorded {
  readonly kind: 'write';
  readonly offset: number;
  /** A copy. */
  readonly bytes: Uint8Array;
  readonly fua: boolean;
}

export interface RecordedWriteZeroes extends Recorded {
  readonly kind: 'write_zeroes';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly fua: boolean;
  readonly mayUnmap: boolean;
}

export interface RecordedDiscard extends Recorded {
  readonly kind: 'discard';
  readonly offset: number;
  readonly lengthBytes: number;
}

export interface RecordedResize extends Recorded {
  readonly kind: 'resize';
  readonly sizeBytes: number;
}

export interface RecordedFlush extends Recorded {
  readonly kind: 'flush';
  /** Where it was asked for; undefined for everywhere. */
  readonly range?: FlushOptions['range'] | undefined;
}

export type RecordedOperation =
  | RecordedWrite
  | RecordedWriteZeroes
  | RecordedDiscard
  | RecordedResize
  | RecordedFlush;

export interface DeviceCounters {
  reads: number;
  readBytes: number;
  writes: number;
  writtenBytes: number;
  flushes: number;
  discards: number;
  writeZeroes: number;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Started<T extends RecordedOperation> = Omit<T, 'serial' | 'startedAt' | 'completedAt' | 'failed'>;

export class RecordingDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #log: RecordedOperation[] = [];
  readonly #counters: DeviceCounters = zeroCounters();
  #serial = 0;
  #now = 0;

  constructor(below: BlockDevice) {
    this.#below = below;
  }

  get capabilities(): DeviceCapabilities {
    return this.#below.capabilities;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  /** The log so far, in the order in which operations started. Live: grows with the device's use. */
  get log(): readonly RecordedOperation[] {
    return this.#log;
  }

  /** The time now: later than every start and completion so far. */
  get now(): number {
    return this.#now;
  }

  /** Reads, writes and flushes so far, failed ones included. A copy. */
  get counters(): Readonly<DeviceCounters> {
    return { ...this.#counters };
  }

  /** Forget the log and zero the counters; serial numbers and time go on. */
  reset(): void {
    this.#log.length = 0;
    Object.assign(this.#counters, zeroCounters());
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    this.#counters.reads++;
    this.#counters.readBytes += into.length;
    return this.#below.read(offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#counters.writes++;
    this.#counters.writtenBytes += bytes.length;
    return this.#record<RecordedWrite>(
      { kind: 'write', offset, bytes: bytes.slice(), fua: options?.fua === true, event: options?.event },
      () => this.#below.write(offset, bytes, options),
    );
  }

  flush(options?: FlushOptions): void | Promise<void> {
    this.#counters.flushes++;
    return this.#record<RecordedFlush>({ kind: 'flush', event: options?.event, range: options?.range }, () =>
      this.#below.flush(options),
    );
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#counters.discards++;
    return this.#record<RecordedDiscard>(
      { kind: 'discard', offset, lengthBytes, event: options?.event },
      () => this.#below.discard(offset, lengthBytes, options),
    );
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#counters.writeZeroes++;
    return this.#record<RecordedWriteZeroes>(
      {
        kind: 'write_zeroes',
        offset,
        lengthBytes,
        fua: options?.fua === true,
        mayUnmap: options?.mayUnmap === true,
        event: options?.event,
      },
      () => this.#below.writeZeroes(offset, lengthBytes, options),
    );
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#below.extents(offset, lengthBytes);
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#record<RecordedResize>({ kind: 'resize', sizeBytes, event: undefined }, () =>
      this.#below.resize(sizeBytes),
    );
  }

  close(): void | Promise<void> {
    return this.#below.close();
  }

  #record<T extends RecordedOperation>(
    started: Started<T>,
    perform: () => void | Promise<void>,
  ): void | Promise<void> {
    const operation = {
      ...started,
      serial: this.#serial++,
      startedAt: this.#now++,
      completedAt: undefined,
      failed: false,
    } as Mutable<RecordedOperation>;
    this.#log.push(operation);
    const complete = (failed: boolean) => {
      operation.completedAt = this.#now++;
      operation.failed = failed;
    };
    let outcome: void | Promise<void>;
    try {
      outcome = perform();
    } catch (error) {
      complete(true);
      throw error;
    }
    if (!isPromise(outcome)) return complete(false);
    return outcome.then(
      () => complete(false),
      (error: unknown) => {
        complete(true);
        throw error;
      },
    );
  }
}

/** Do a recorded operation again, on another device. */
export function applyRecorded(operation: RecordedOperation, device: BlockDevice): void | Promise<void> {
  const options = operation.event === undefined ? {} : { event: operation.event };
  switch (operation.kind) {
    case 'write':
      return device.write(operation.offset, operation.bytes, { ...options, fua: operation.fua });
    case 'write_zeroes':
      return device.writeZeroes(operation.offset, operation.lengthBytes, {
        ...options,
        fua: operation.fua,
        mayUnmap: operation.mayUnmap,
      });
    case 'discard':
      return device.discard(operation.offset, operation.lengthBytes, options);
    case 'resize':
      return device.resize(operation.sizeBytes);
    case 'flush':
      return device.flush(operation.range === undefined ? options : { ...options, range: operation.range });
  }
}

function zeroCounters(): DeviceCounters {
  return { reads: 0, readBytes: 0, writes: 0, writtenBytes: 0, flushes: 0, discards: 0, writeZeroes: 0 };
}
