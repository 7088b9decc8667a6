/**
 * What the engine asks of whoever owns the image. The engine knows records, order and durability; the
 * client knows what guest writes and host bytes mean.
 */
import type { Task } from '@qcow2/block-device';
import type { GuestWrite } from './microtransaction.ts';

export interface JournalClient {
  /** Guest bytes gathered in memory that no record holds yet. */
  readonly unloggedGuestBytes: number;

  /** A commit begins: what is gathered now is what it has to log. What comes later may wait for the next. */
  beginCommit(): void;

  /** Whether something of what was gathered at `beginCommit` is still in no record, and not settled either. */
  hasCommitWrites(): boolean;

  /**
   * Hand over guest writes of this commit, at most `maxBytes` of descriptors and payload together (each
   * write takes 24 bytes and its length), and count them as logged in the record that is being built.
   */
  takeGuestWrites(maxBytes: number): readonly GuestWrite[];

  /**
   * Too much is gathered to be doubled: write it in place into clusters that nothing durable references,
   * and submit the microtransactions that map it.
   */
  settleUnlogged(): Task<void>;

  /** A round of write-back begins: everything logged so far is to be settled in it. */
  beginRound(): void;

  /** Pieces of the round that are left to do: clusters, or whatever goes in place as one range of the file. */
  readonly roundPieces: number;

  /**
   * Settle up to `pieces` more of the round, at least one where any is left, and no more once `maxBytes`
   * have been written in place.
   */
  stepRound(pieces: number, maxBytes: number): Task<void>;

  /** Set the journal-dirty bit, durable on return. */
  markDirty(): Task<void>;

  /** Clear it, durable on return. Everything in place is durable when this is called. */
  markClean(): Task<void>;

  /** Make the file long enough for every cluster handed out; called before each flush. */
  beforeFlush(): Task<void>;
}
