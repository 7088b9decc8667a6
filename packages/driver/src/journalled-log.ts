/** The metadata log of an image with a journal: the engine, behind the face that the image's code uses. */
import type { Task } from '@qcow2/block-device';
import type { JournalEngine } from '@qcow2/journal';
import type { Qcow2Error } from '@qcow2/spec';
import type { MetadataChange, MetadataLog } from './metadata-log.ts';

export class JournalledLog implements MetadataLog {
  readonly lateFrees = false;
  readonly takesCopies: boolean;
  readonly takesFills: boolean;
  readonly engine: JournalEngine;

  /** @param takesParts parts of clusters may be left to it: they name places of the image file [JRN-COPY-010] */
  constructor(engine: JournalEngine, takesParts: boolean) {
    this.engine = engine;
    this.takesCopies = takesParts;
    this.takesFills = takesParts;
  }

  get failure(): Qcow2Error | undefined {
    return this.engine.failure;
  }

  get generation(): number {
    return this.engine.generation;
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

  newIntentId(): number {
    return this.engine.newIntentId();
  }

  noteDeviceWrite(): void {
    this.engine.noteDeviceWrite();
  }

  submit(change: MetadataChange): void {
    const { writes, revokes, settled, copies = [], fills = [], onDurable, ...rest } = change;
    const { required, afterData, intent, intentDone } = rest;
    const common = {
      hostWrites: writes,
      revokes,
      settled,
      copies,
      fills,
      required,
      afterData,
      intent,
      intentDone,
    };
    this.engine.submit(onDurable === undefined ? common : { ...common, onDurable });
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
}
