/**
 * What the engine takes from its client: microtransactions, and guest writes.
 *
 * A microtransaction is a set of changes that a crash keeps whole or loses whole. The engine keeps them in
 * the order in which they were submitted and puts as many as it likes into one record; within a record the
 * same bytes changed twice are logged once.
 */
import type { GuestOffset, HostOffset } from '@qcow2/spec';

/** New bytes for a place in the image file. The engine keeps `bytes`: the caller must not change them. */
export interface HostWrite {
  readonly hostOffset: HostOffset;
  readonly bytes: Uint8Array;
}

export interface HostRange {
  readonly hostOffset: HostOffset;
  readonly lengthBytes: number;
}

export interface GuestRange {
  readonly guestOffset: GuestOffset;
  readonly lengthBytes: number;
}

/** The bytes of a host range are what the backing file shows, until they are written there [JRN-COPY-002]. */
export interface BackingFill {
  readonly targetHostOffset: HostOffset;
  readonly guestOffset: GuestOffset;
  readonly lengthBytes: number;
}

/** Guest bytes to be logged. The engine copies them into the record before it returns to its client. */
export interface GuestWrite {
  readonly guestOffset: GuestOffset;
  readonly bytes: Uint8Array;
}

/** Bytes of one place of the image file that another one is to get. */
export interface HostCopy {
  readonly targetHostOffset: number;
  readonly sourceHostOffset: number;
  readonly lengthBytes: number;
}

/** An operation of which recovery must know while it is under way. What `body` says is a matter of its kind. */
export interface LoggedIntent {
  readonly id: number;
  /** A number of the format [JRN-INTENT-020 and further]. */
  readonly kind: number;
  /** At most 256 bytes. The engine keeps it: the caller must not change it. */
  readonly body: Uint8Array;
}

export interface Microtransaction {
  readonly hostWrites?: readonly HostWrite[];
  /**
   * To be made when the microtransaction is durable, by the client, in a round. Nobody changes the source before it is made and
   * has ended: with v1, as fills do, by a revoke of its target; with draft-2013 by a revoke or by `onRetired`.
   */
  readonly copies?: readonly HostCopy[];
  readonly fills?: readonly BackingFill[];
  /** Freed ranges in which earlier host writes of the log must not be executed any more. */
  readonly revokes?: readonly HostRange[];
  /** Guest ranges whose logged guest writes, up to now, are found through the mapping from here on. */
  readonly settled?: readonly GuestRange[];
  /** Begins an operation, or says how far it has come. The id is the engine's (`newIntentId`). */
  readonly intent?: LoggedIntent | undefined;
  /** Id of the operation that this microtransaction completes, or that is undone with it. */
  readonly intentDone?: number | undefined;
  /** A guest's flush must carry it: without it, something acknowledged would be missing. */
  readonly required: boolean;
  /**
   * It makes reachable (or drops the log's copy of) bytes that were written in place before it was
   * submitted: it enters no record before a flush that began after that has completed.
   */
  readonly afterData: boolean;
  /** Called once, synchronously, when the record that holds it is durable. */
  readonly onDurable?: () => void;
  /** Profile draft-2013: called once, synchronously, when a durable header has passed it: no replay executes it any more. */
  readonly onRetired?: () => void;
}

/**
 * Upper bound of the descriptor bytes that a microtransaction takes in a record (JRN-DESC). A revoke may leave two pieces
 * of a copy or a fill of its own batch.
 */
export function descriptorBytesBound(transaction: Microtransaction): number {
  const { revokes, settled, copies, fills } = transaction;
  let bytes = (24 + 32) * (revokes?.length ?? 0) + 32 * (settled?.length ?? 0);
  bytes += 32 * ((copies?.length ?? 0) + (fills?.length ?? 0));
  for (const write of transaction.hostWrites ?? []) bytes += 16 + Math.ceil(write.bytes.length / 8) * 8;
  if (transaction.intent !== undefined) bytes += 24 + Math.ceil(transaction.intent.body.length / 8) * 8;
  if (transaction.intentDone !== undefined) bytes += 16;
  return bytes;
}
