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
import type { ClusterWriter } from './cluster-writer.ts';
import type { ImageCore } from './image-core.ts';
import type { MetadataChange, MetadataLog } from './metadata-log.ts';

/** Byte offset of the feature masks in the header (HDR-015). */
const featuresAt = 72;
/** Recovery bounds what it holds at most: a log of ours stays far below [JD13-DESC-018]. */
const mostLiveParts = 4096;

export class DraftLog implements MetadataLog {
  readonly lateFrees = false;
  /** Of fills from the backing file the draft knows nothing. */
  readonly takesCopies = true;
  readonly mostLiveParts = mostLiveParts;
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
    const { writes, revokes, copies, required, afterData, onDurable, onRetired } = change;
    this.engine.submit({
      hostWrites: writes,
      revokes,
      required,
      afterData,
      ...(copies === undefined || copies.length === 0 ? {} : { copies }),
      ...(onDurable === undefined ? {} : { onDurable }),
      ...(onRetired === undefined ? {} : { onRetired }),
    });
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

/**
 * The image as the draft engine's client: the dirty bit, the length of the file, and the copies that the log holds. These are made
 * under the write lock, of what is still to be brought then: where a guest has written meanwhile, nothing is copied over it.
 */
export class ImageDraftClient implements DraftClient {
  readonly #core: ImageCore;
  readonly #allocator: Allocator;
  readonly #writer: ClusterWriter;
  /** Host clusters with parts to be brought in, last to be done first. */
  #round: { readonly hostCluster: number; readonly bytes: number }[] = [];
  #roundBytes = 0;
  /** Only what was committed when the round began [JD13-TXN-008]. */
  #until = 0;

  constructor(core: ImageCore, allocator: Allocator, writer: ClusterWriter) {
    this.#core = core;
    this.#allocator = allocator;
    this.#writer = writer;
  }

  get roundBytes(): number {
    return this.#roundBytes;
  }

  beginRound(): number {
    const { fills } = this.#core;
    this.#until = fills.durableTime;
    this.#round = fills.unfilled(this.#until).reverse();
    this.#roundBytes = this.#round.reduce((sum, { bytes }) => sum + bytes, 0);
    return this.#roundBytes;
  }

  *stepRound(maxBytes: number): Task<number> {
    return yield* this.#core.writeLock.exclusive(() => this.#stepLocked(maxBytes));
  }

  *#stepLocked(maxBytes: number): Task<number> {
    let copied = 0;
    while (copied < maxBytes) {
      const next = this.#round.pop();
      if (next === undefined) break;
      copied += yield* this.#writer.makeCopies(next.hostCluster, this.#until);
      this.#roundBytes -= next.bytes;
    }
    return copied;
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
