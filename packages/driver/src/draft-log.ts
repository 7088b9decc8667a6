/**
 * The metadata log of an image with a journal of the profile draft-2013: the engine, behind the face that the
 * image's code uses. What the draft calls `commit_interval` is a timer here; it does not keep a process alive, and
 * `stop` ends it with the image.
 */
import { type BlockDevice, run, type Task, wait } from '@qcow2/block-device';
import { encodeDraftFeatures, type Qcow2Header } from '@qcow2/codec';
import type { DraftClient, DraftEngine } from '@qcow2/journal';
import type { Qcow2Error } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { MetadataChange, MetadataLog } from './metadata-log.ts';

/** Byte offset of the feature masks in the header (HDR-015). */
const featuresAt = 72;

export class DraftLog implements MetadataLog {
  readonly lateFrees = false;
  readonly engine: DraftEngine;
  readonly #commitIntervalMs: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  /** @param commitIntervalMs how long a change waits for a commit at most; 0: until somebody asks for one */
  constructor(engine: DraftEngine, commitIntervalMs: number) {
    this.engine = engine;
    this.#commitIntervalMs = commitIntervalMs;
  }

  get failure(): Qcow2Error | undefined {
    return this.engine.failure;
  }

  get generation(): number {
    return this.engine.counters.flushes;
  }

  get isBacklogged(): boolean {
    return this.engine.isBacklogged;
  }

  get changeBytes(): number {
    return this.engine.changeBytes;
  }

  get isIdle(): boolean {
    return this.engine.isIdle;
  }

  noteDeviceWrite(): void {
    this.engine.noteDeviceWrite();
  }

  /** Ranges of settled guest writes mean nothing here: this log holds none. */
  submit(change: MetadataChange): void {
    const { writes, revokes, required, afterData, onDurable } = change;
    const common = { hostWrites: writes, revokes, required, afterData };
    this.engine.submit(onDurable === undefined ? common : { ...common, onDurable });
    this.#startTimer();
  }

  patch(hostOffset: number, into: Uint8Array): void {
    this.engine.patch(hostOffset, into);
  }

  *commit(): Task<void> {
    yield* this.engine.commit();
  }

  *quiesce(): Task<void> {
    yield* this.engine.quiesce();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #startTimer(): void {
    if (this.#commitIntervalMs <= 0 || this.#timer !== undefined || this.#stopped) return;
    const timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#stopped) void this.#commitInTime();
    }, this.#commitIntervalMs);
    this.#timer = timer;
    // In Node a timer keeps the process alive unless told not to; in a browser it is a number.
    if (typeof timer === 'object') (timer as { unref?(): void }).unref?.();
  }

  async #commitInTime(): Promise<void> {
    if (!this.engine.hasQueued || this.engine.failure !== undefined) return;
    try {
      await run(this.engine.commit(true));
    } catch {
      // The engine keeps the failure, and tells the next who writes or flushes.
    }
  }
}

/** The image as the draft engine's client: the dirty bit, and the length of the file. */
export class ImageDraftClient implements DraftClient {
  readonly #core: ImageCore;
  readonly #allocator: Allocator;

  constructor(core: ImageCore, allocator: Allocator) {
    this.#core = core;
    this.#allocator = allocator;
  }

  *markDirty(): Task<void> {
    yield* writeDraftDirtyBit(this.#core.device, this.#core.header, true);
  }

  *markClean(): Task<void> {
    const { device, header } = this.#core;
    yield* writeDraftDirtyBit(device, header, false);
    yield* wait(device.flush({ event: 'flush_metadata' }));
  }

  *beforeFlush(): Task<void> {
    if (!this.#allocator.fileIsShort) return;
    // Under the lock: a resize must not come late and cut off what a write has added meanwhile.
    yield* this.#core.writeLock.exclusive(() => this.#allocator.extendFile());
  }
}

/** Bits 2 and 0, in one write within the header's first sector. Not durable on return. */
export function* writeDraftDirtyBit(device: BlockDevice, header: Qcow2Header, dirty: boolean): Task<void> {
  const before = header.draftJournal;
  if (before === undefined) return;
  header.draftJournal = { ...before, dirty };
  const bytes = encodeDraftFeatures(header, header.draftJournal);
  yield* wait(device.write(featuresAt, bytes, { event: 'dirty_bit' }));
}
