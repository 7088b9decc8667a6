/**
 * What the lab asks of a thing that it crashes: make one on a device, open it (which recovers it), use it
 * as a block device, close it. The lab knows nothing of images, journals or logs beyond this.
 *
 * A system must be deterministic: the same device content, the same requests and the same `random` give the
 * same device operations. The whole lab, and the ids of its states, stand on that.
 */
import type { BlockDevice } from '@qcow2/block-device';
import type { BitmapPromise } from './bitmap-oracle.ts';
import type { Damage } from './workload.ts';

export type FillRandom = (into: Uint8Array) => void;

export interface OpenSystemOptions {
  readonly random: FillRandom;
  /** Recover into memory, write nothing. */
  readonly readOnly: boolean;
}

export interface OpenSystem {
  /** What the guest sees; its size is the disk's as it is now. */
  readonly guest: BlockDevice;
  /** Make the disk larger; durable after a flush. Absent where the system's letters have no growth. */
  grow?(sizeBytes: number): void | Promise<void>;
  /** Come to rest: everything in place and durable, clean, and open still. */
  rest(): void | Promise<void>;
  /** Another log in place of the one that there is, everything durable on return. Absent where the system's letters have no such thing. */
  resizeJournal?(): void | Promise<void>;
  /** Refcounts of the next width, everything durable on return. Absent where the system's letters have no such thing. */
  changeWidth?(): void | Promise<void>;
  /** Write whole clusters in compressed form. Absent where the system's letters have none. */
  compress?(offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Have the device below copy whole clusters of others; tells how much came, from the first byte on. Absent where writes carry their bytes. */
  copy?(offset: number, bytes: Uint8Array): number | Promise<number>;
  /** Make it smaller; durable when it is done. Absent where the letters have none of it, as `snapshots`. */
  shrink?(sizeBytes: number): Promise<void>;
  readonly snapshots?: OpenSnapshots;
  readonly bitmaps?: OpenBitmaps;
  readonly backing?: OpenBacking;
  /** Wait until the system has nothing more to do on its own. */
  settle(): void | Promise<void>;
  /** A clean end: everything that was written is durable on return. */
  close(): void | Promise<void>;
  /** Forget everything without writing, as a crash would. */
  abandon(): void;
}

/** Internal snapshots. What is done is durable when it is done. */
export interface OpenSnapshots {
  /** Oldest first. */
  names(): readonly string[];
  create(name: string): Promise<unknown>;
  apply(name: string): Promise<void>;
  delete(name: string): Promise<void>;
  /** What the disk was. */
  read(name: string): Promise<Uint8Array>;
}

/** A bitmap as a reader of the image sees it. */
export interface BitmapState {
  readonly name: string;
  readonly granularityBytes: number;
  /** Writes are recorded in it. */
  readonly enabled: boolean;
  /** Found in use: what it says is not to be believed. */
  readonly inconsistent: boolean;
  /** One for each sector of the disk: 1 where it says that it is dirty. All 0 where it is inconsistent. */
  readonly dirty: Uint8Array;
}

/** Persistent bitmaps. What is done is durable when it is done. */
export interface OpenBitmaps {
  /** In the order of the directory. */
  list(): Promise<readonly BitmapState[]>;
  add(name: string, granularityBytes: number): Promise<void>;
  remove(name: string): Promise<void>;
  clear(name: string): Promise<void>;
  /** What is dirty in `source` is dirty in the bitmap as well. */
  merge(name: string, source: string): Promise<void>;
  enable(name: string, enabled: boolean): Promise<void>;
}

/** What the system stands on. */
export interface OpenBacking {
  /** What the system says now that it stands on. */
  named(): string;
  /** What it stands on when it has been changed. */
  readonly next: string;
  /** Durable when it is done, as everything that was written before. The system is to be closed then. */
  change(): Promise<void>;
}

export interface IntegrityReport {
  readonly errors: number;
  readonly leaks: number;
  /** One line for each finding, for people. */
  readonly findings: readonly string[];
}

export interface LoggedRecord {
  readonly sequence: number;
  /** In the ring. */
  readonly position: number;
  /** Whole sectors; they may go on at the ring's start. */
  readonly lengthBytes: number;
  /** What it says was durable before it. */
  readonly durableThrough: number;
}

/** The log that an open for writing would replay. Host offsets and lengths are bytes. */
export interface LiveLog {
  readonly areaOffset: number;
  readonly areaBytes: number;
  readonly ringOffset: number;
  readonly ringBytes: number;
  readonly slotOffsets: readonly number[];
  /** What the ruling slot says was durable. */
  readonly durableSequence: number;
  readonly records: readonly LoggedRecord[];
}

/** Of a system that is damaged, and repaired by every opening for writing. */
export interface Repair {
  /** Damage what stands on the device while nobody has it open; durable on return. Nothing where there is no such thing to damage. */
  damage(device: BlockDevice, damage: Damage): Promise<void>;
  /** What a guest is to see when the device is repaired: what entries lead to, whatever else they say. */
  look(device: BlockDevice): Promise<Uint8Array>;
  /** What is dangerous in it as it stands, one line for each: a crash must not add to it. */
  dangers(device: BlockDevice): Promise<readonly string[]>;
}

export interface SystemUnderTest {
  /** Names the configuration in the ids of states: letters, digits, `+`, `-`. */
  readonly name: string;
  /** Guest size after `create`; a multiple of 512. */
  readonly guestBytes: number;
  /** The unit that workloads think in: a cluster, for an image. */
  readonly clusterBytes: number;
  /** The operations of its exhaustive workloads (`workload.ts`). */
  readonly letters: string;
  /** It has internal snapshots: what a recovery gives ends with their list (`snapshotListBytes`). */
  readonly hasSnapshots?: boolean;
  /** It has bitmaps: what a recovery gives ends with their list (`bitmapListBytes`). */
  readonly bitmaps?: {
    readonly promise: BitmapPromise;
    /** Right after `create`. */
    readonly initial: readonly BitmapState[];
  };
  /** It stands on something that can be changed, and on this right after `create`: what a recovery gives ends with it (`backingBytes`). */
  readonly firstBacking?: string;
  readonly repair?: Repair;
  /** After recovery nothing may be leaked (G3); otherwise leaks are counted but allowed. */
  readonly leaksAreFailures: boolean;
  /** Programs that do not know the system find leaks where it has none. */
  readonly leaksForStrangers?: boolean;
  /** Format the empty device, durable on return. */
  create(device: BlockDevice, random: FillRandom): void | Promise<void>;
  /** The guest's content right after `create`. */
  initialContent(): Uint8Array;
  open(device: BlockDevice, options: OpenSystemOptions): OpenSystem | Promise<OpenSystem>;
  /** The log as it stands, undefined where it would not be looked at. Absent: there is none that the lab can damage. */
  liveLog?(device: BlockDevice): Promise<LiveLog | undefined>;
  /** What must not stand on the device right after a crash, before any recovery: one line for each finding. */
  checkCrashed?(device: BlockDevice): Promise<readonly string[]>;
  /** Check what stands on the device, without writing to it. Absent: there is nothing to check. */
  check?(device: BlockDevice): IntegrityReport | Promise<IntegrityReport>;
}
