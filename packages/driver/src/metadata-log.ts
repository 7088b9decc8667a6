/**
 * Where changed metadata goes: the journal, or ordered writes. The image's code is the same over both; what
 * differs is when a change is durable and what a crash leaves.
 *
 * A change is handed over whole. With a journal it is atomic. Without one its steps are written in order
 * (refcounts before mappings, see `OrderedWrites`), and references that it drops are counted down only when
 * its mappings are durable, so that a crash leaks at worst.
 */
import type { Task } from '@qcow2/block-device';
import type { WriteStep } from '@qcow2/cache';
import type { BackingFill, GuestRange, HostCopy, HostRange, HostWrite, LoggedIntent } from '@qcow2/journal';
import type { Qcow2Error } from '@qcow2/spec';

export interface MetadataWrite extends HostWrite {
  readonly step: WriteStep;
}

export interface MetadataChange {
  readonly writes: readonly MetadataWrite[];
  /** Freed ranges that held tables. */
  readonly revokes: readonly HostRange[];
  /** Guest ranges that are now found through the mapping, or not at all. */
  readonly settled: readonly GuestRange[];
  /** Parts of what it maps whose bytes stand elsewhere until they are brought in. Only where the log takes them. */
  readonly copies?: readonly HostCopy[];
  readonly fills?: readonly BackingFill[];
  /** Something acknowledged by the next guest flush depends on it. */
  readonly required: boolean;
  /** Bytes written in place become reachable by it. */
  readonly afterData: boolean;
  /**
   * Those bytes stand in clusters that read as zeros without them, and zeros is what was seen there before: with lazy
   * refcounts they need not be durable before the change.
   */
  readonly overZeros?: boolean;
  /** Begins an operation of many changes, or says how far it has come. Only where the log has `newIntentId`. */
  readonly intent?: LoggedIntent | undefined;
  /** The change that completes such an operation. */
  readonly intentDone?: number | undefined;
  /** Called when the change is durable: what it freed may be used again. */
  readonly onDurable?: () => void;
  /** Called, by a log that ends copies without a revoke, when no replay makes those of this change any more. */
  readonly onRetired?: () => void;
}

export interface MetadataLog {
  /** True: a reference that goes away is counted down only after the change is durable. */
  readonly lateFrees: boolean;
  readonly failure: Qcow2Error | undefined;
  /** Changes whenever bytes may have moved from the log to the device: see `readPatched`. */
  readonly generation: number;
  /** So much waits that it must be committed before more is submitted. */
  readonly isBacklogged: boolean;
  /** Bytes of descriptors that one operation may submit before it asks again. */
  readonly changeBytes: number;
  /** Copies within the image may be left to the log (`copies`). */
  readonly takesCopies?: boolean;
  /** So many parts of clusters may be left to it at a time; without it, as many as it has room for. */
  readonly mostLiveParts?: number;
  /** Bytes of the backing device may be left to it (`fills`). */
  readonly takesFills?: boolean;
  /** Nothing waits and nothing is under way: another log may take this one's place. */
  readonly isIdle: boolean;

  /**
   * An id for an operation of many changes that a crash must not leave half done. Absent from a log that keeps no
   * intents: there the order of the changes alone must do.
   */
  newIntentId?(): number;
  /** The image wrote to the device in place: the next commit owes a flush. */
  noteDeviceWrite(): void;
  /** @throws FAILED_EARLIER */
  submit(change: MetadataChange): void;
  /** Lay over `into` what is not on the device yet. */
  patch(hostOffset: number, into: Uint8Array): void;
  /** Make durable all that was submitted and written. */
  commit(): Task<void>;
  /** Bring everything in place, durable on return. */
  quiesce(): Task<void>;
  /** The image is let go: nothing is done any more that nobody asks for. */
  stop?(): void;
}
