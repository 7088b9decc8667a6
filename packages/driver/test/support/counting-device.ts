/** A device that counts what the one below it is asked for, by event, in bytes and in requests. */
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';

export interface Count {
  requests: number;
  bytes: number;
}

export class CountingDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #counts = new Map<string, Count>();
  flushes = 0;

  constructor(below: BlockDevice) {
    this.#below = below;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  get capabilities(): DeviceCapabilities {
    return this.#below.capabilities;
  }

  /** Reads with an event, or all of them. */
  reads(event?: IoEvent): Count {
    return this.#sum('read', event);
  }

  writes(event?: IoEvent): Count {
    return this.#sum('write', event);
  }

  reset(): void {
    this.#counts.clear();
    this.flushes = 0;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    this.#count('read', options?.event, into.length);
    return this.#below.read(offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#count('write', options?.event, bytes.length);
    return this.#below.write(offset, bytes, options);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#count('write', options?.event, lengthBytes);
    return this.#below.writeZeroes(offset, lengthBytes, options);
  }

  discard(offset: number, lengthBytes: number): void | Promise<void> {
    return this.#below.discard(offset, lengthBytes);
  }

  flush(options?: FlushOptions): void | Promise<void> {
    this.flushes++;
    return this.#below.flush(options);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#below.extents(offset, lengthBytes);
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#below.resize(sizeBytes);
  }

  close(): void | Promise<void> {
    return this.#below.close();
  }

  #count(kind: 'read' | 'write', event: IoEvent | undefined, bytes: number): void {
    const key = `${kind} ${event ?? ''}`;
    const count = this.#counts.get(key) ?? { requests: 0, bytes: 0 };
    count.requests++;
    count.bytes += bytes;
    this.#counts.set(key, count);
  }

  #sum(kind: 'read' | 'write', event: IoEvent | undefined): Count {
    const sum = { requests: 0, bytes: 0 };
    for (const [key, { requests, bytes }] of this.#counts) {
      if (event === undefined ? !key.startsWith(`${kind} `) : key !== `${kind} ${event}`) continue;
      sum.requests += requests;
      sum.bytes += bytes;
    }
    return sum;
  }
}
