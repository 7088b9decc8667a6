/**
 * A device whose calls the test lets go one by one: each call waits as a promise until the test finishes
 * or fails it, so that a test decides what overlaps with what.
 */
import { type BlockDevice, type Extent, MemoryDevice, type WriteOptions } from '@qcow2/block-device';

export interface StagedCall {
  readonly name: 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes' | 'extents';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly fua: boolean;
  /** the buffer of a write, as the device got it */
  readonly bytes: Uint8Array | undefined;
  /** Do it, and let the caller know. */
  finish(): void;
  /** Do nothing, and reject. */
  fail(error: unknown): void;
}

export class StagedDevice implements BlockDevice {
  readonly inner: MemoryDevice;
  readonly capabilities;
  /** calls that wait, oldest first */
  readonly calls: StagedCall[] = [];
  /** names of all calls ever, in order */
  readonly history: string[] = [];
  #arrived = (): void => {};

  constructor(sizeBytes: number) {
    this.inner = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
    this.capabilities = this.inner.capabilities;
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }

  /** Resolves when at least `count` calls wait. */
  async waiting(count: number): Promise<readonly StagedCall[]> {
    while (this.calls.length < count) {
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
    return this.calls;
  }

  /** Finish the oldest waiting call, when there is one. */
  async finishNext(): Promise<void> {
    await this.waiting(1);
    this.calls[0]?.finish();
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#stage('read', offset, into.length, () => this.inner.read(offset, into));
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    return this.#stage('write', offset, bytes.length, () => this.inner.write(offset, bytes), options, bytes);
  }

  flush(): Promise<void> {
    return this.#stage('flush', 0, 0, () => {});
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    return this.#stage(
      'discard',
      offset,
      lengthBytes,
      () => this.inner.discard(offset, lengthBytes),
      options,
    );
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    return this.#stage(
      'writeZeroes',
      offset,
      lengthBytes,
      () => this.inner.writeZeroes(offset, lengthBytes),
      options,
    );
  }

  extents(offset: number, lengthBytes: number): Promise<readonly Extent[]> {
    return this.#stage(
      'extents',
      offset,
      lengthBytes,
      () => this.inner.extents(offset, lengthBytes) as Extent[],
    );
  }

  resize(): void {}

  close(): void {}

  #stage<T>(
    name: StagedCall['name'],
    offset: number,
    lengthBytes: number,
    act: () => T,
    options?: WriteOptions,
    bytes?: Uint8Array,
  ): Promise<T> {
    this.history.push(name);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const leave = (): void => {
      this.calls.splice(this.calls.indexOf(call), 1);
    };
    const call: StagedCall = {
      name,
      offset,
      lengthBytes,
      fua: options?.fua === true,
      bytes,
      finish() {
        leave();
        resolve(act());
      },
      fail(error) {
        leave();
        reject(error);
      },
    };
    this.calls.push(call);
    this.#arrived();
    return promise;
  }
}
