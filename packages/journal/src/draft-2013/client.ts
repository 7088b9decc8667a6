/** What the draft's engine asks of whoever owns the image. */
import type { Task } from '@qcow2/block-device';

export interface DraftClient {
  /** Set the image's dirty bit; durable with the next flush. */
  markDirty(): Task<void>;
  /** Clear it, durable on return. Everything in place is durable when this is called. */
  markClean(): Task<void>;
  /**
   * A round begins: what committed copies are to bring, and nobody has written since, is to be brought in place in it.
   * Returns how many bytes that is.
   */
  beginRound(): number;
  /** Bytes of the round that are still to be copied, at most. */
  readonly roundBytes: number;
  /**
   * Copy some of it, in place, at least one piece where any is left, and no more once `maxBytes` have been copied. Nobody writes
   * to a target meanwhile: the client takes its own lock. Returns how many bytes were copied; none of them is durable.
   */
  stepRound(maxBytes: number): Task<number>;
  /** Make the file long enough for every cluster handed out; called before each flush. */
  beforeFlush(): Task<void>;
}
