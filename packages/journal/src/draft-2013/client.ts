/** What the draft's engine asks of whoever owns the image. */
import type { Task } from '@qcow2/block-device';

export interface DraftClient {
  /** Set the image's dirty bit; durable with the next flush. */
  markDirty(): Task<void>;
  /** Clear it, durable on return. Everything in place is durable when this is called. */
  markClean(): Task<void>;
  /** Make the file long enough for every cluster handed out; called before each flush. */
  beforeFlush(): Task<void>;
}
