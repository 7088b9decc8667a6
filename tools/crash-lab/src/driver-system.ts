/**
 * The qcow2 driver as a system under test, in the configurations that the lab explores.
 *
 * Images are tiny, so that spaces of crash states are small enough to be gone through: clusters of 1 KiB (two
 * sectors: a sub-cluster write is one sector), journal blocks of 512 bytes, a ring of 56 KiB. Random
 * workloads also run on other cluster sizes.
 */
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import { checkImage, createImage, type OpenOptions, openImage } from '@qcow2/driver';
import type { FillRandom, IntegrityReport, OpenSystem, SystemUnderTest } from './system-under-test.ts';
import { stampedContent } from './workload.ts';

export type DriverMode = 'journal' | 'ordered';

export interface DriverConfiguration {
  /** Part of the ids of states. */
  readonly name: string;
  readonly mode: DriverMode;
  readonly clusterBytes: number;
  readonly guestBytes: number;
  /** Clusters 0, 1, 2 and half of 5 are written before the workload begins. */
  readonly filled: boolean;
  /** Bytes of backing file, 0 for none. What it does not reach reads as zeros. */
  readonly backingBytes: number;
  /** 512 if not given. Larger blocks make a ring of few, which wraps soon. */
  readonly journalBlockBytes?: number;
  readonly tuning?: NonNullable<OpenOptions['journal']>;
}

/** The name by which images name their backing file, for tools that look for it. */
export const backingFileName = 'backing.raw';

const journalBytes = 64 * 1024;
const baseStamp = 1;
const backingStamp = 2;

export class DriverSystem implements SystemUnderTest {
  readonly configuration: DriverConfiguration;
  readonly leaksAreFailures: boolean;
  readonly #initial: Uint8Array;

  constructor(configuration: DriverConfiguration) {
    this.configuration = configuration;
    this.leaksAreFailures = configuration.mode === 'journal';
    this.#initial = new Uint8Array(configuration.guestBytes);
    this.#initial.set(this.backingContent());
    if (!configuration.filled) return;
    for (const { offset, bytes } of this.#filling()) this.#initial.set(bytes, offset);
  }

  get name(): string {
    return this.configuration.name;
  }

  get guestBytes(): number {
    return this.configuration.guestBytes;
  }

  get clusterBytes(): number {
    return this.configuration.clusterBytes;
  }

  backingContent(): Uint8Array {
    return stampedContent(backingStamp, this.configuration.backingBytes);
  }

  initialContent(): Uint8Array {
    return this.#initial;
  }

  async create(device: BlockDevice, random: FillRandom): Promise<void> {
    const { guestBytes, clusterBytes, mode, filled, backingBytes } = this.configuration;
    const { journalBlockBytes: blockBytes = 512 } = this.configuration;
    await createImage(device, {
      sizeBytes: guestBytes,
      clusterBytes,
      journal: mode === 'journal' ? { sizeBytes: journalBytes, blockBytes } : false,
      random,
      ...(backingBytes > 0 ? { backingFile: backingFileName, backingFormat: 'raw' } : {}),
    });
    if (!filled) return;
    const image = await openImage(device, this.#openOptions(random, false));
    for (const { offset, bytes } of this.#filling()) await image.write(offset, bytes);
    await image.close();
  }

  async open(device: BlockDevice, options: { random: FillRandom; readOnly: boolean }): Promise<OpenSystem> {
    const image = await openImage(device, this.#openOptions(options.random, options.readOnly));
    return {
      guest: image,
      // All of the driver's work happens within requests: there is nothing to wait for.
      settle: () => undefined,
      close: () => image.close(),
      abandon: () => image.abandon(),
    };
  }

  async check(device: BlockDevice): Promise<IntegrityReport> {
    const report = await checkImage(device);
    return {
      errors: report.corruptions + report.checkErrors,
      leaks: report.leaks,
      findings: report.findings
        .slice(0, 8)
        .map(({ severity, code, message }) => `${severity} ${code}: ${message}`),
    };
  }

  #openOptions(random: FillRandom, readOnly: boolean): OpenOptions {
    const { backingBytes, tuning } = this.configuration;
    return {
      readOnly,
      random,
      ...(tuning === undefined ? {} : { journal: tuning }),
      ...(backingBytes > 0 ? { backing: MemoryDevice.fromBytes(this.backingContent()) } : {}),
    };
  }

  #filling(): { offset: number; bytes: Uint8Array }[] {
    const { clusterBytes, guestBytes } = this.configuration;
    const stamped = stampedContent(baseStamp, guestBytes);
    const part = (offset: number, lengthBytes: number) => ({
      offset,
      bytes: stamped.slice(offset, offset + lengthBytes),
    });
    return [part(0, 3 * clusterBytes), part(5 * clusterBytes, clusterBytes / 2)];
  }
}

const small = { clusterBytes: 1024, guestBytes: 16 * 1024, filled: false, backingBytes: 0 } as const;
const withBacking = { backingBytes: 14 * 1024 + 512 } as const;
/** Every write goes in place, as large ones do. */
const direct = { directWriteBytes: 512, directFlushBytes: 0 } as const;
/** Write-back begins at once. */
const eager = { writeBackAt: 0.01 } as const;

/** What every sequence of the alphabet is tried on. */
export const exhaustiveConfigurations: readonly DriverConfiguration[] = [
  { ...small, name: 'journal', mode: 'journal' },
  { ...small, name: 'ordered', mode: 'ordered' },
  { ...small, name: 'journal+filled', mode: 'journal', filled: true },
  { ...small, name: 'ordered+filled', mode: 'ordered', filled: true },
  { ...small, ...withBacking, name: 'journal+backing', mode: 'journal' },
  { ...small, ...withBacking, name: 'ordered+backing', mode: 'ordered' },
  { ...small, ...withBacking, name: 'journal+backing+filled', mode: 'journal', filled: true },
  { ...small, ...withBacking, name: 'ordered+backing+filled', mode: 'ordered', filled: true },
  { ...small, name: 'journal+direct+filled', mode: 'journal', filled: true, tuning: direct },
  {
    ...small,
    ...withBacking,
    name: 'journal+eager+backing+filled',
    mode: 'journal',
    filled: true,
    tuning: eager,
  },
];

/** What random workloads run on, besides the above. */
export const randomConfigurations: readonly DriverConfiguration[] = [
  {
    name: 'journal-512',
    mode: 'journal',
    clusterBytes: 512,
    guestBytes: 48 * 1024,
    filled: true,
    backingBytes: 0,
  },
  {
    name: 'ordered-512',
    mode: 'ordered',
    clusterBytes: 512,
    guestBytes: 48 * 1024,
    filled: true,
    backingBytes: 0,
  },
  {
    name: 'journal-4k+backing',
    mode: 'journal',
    journalBlockBytes: 4096,
    clusterBytes: 4096,
    guestBytes: 128 * 1024,
    filled: true,
    backingBytes: 100 * 1024 + 512,
  },
  {
    name: 'ordered-4k+backing',
    mode: 'ordered',
    clusterBytes: 4096,
    guestBytes: 128 * 1024,
    filled: true,
    backingBytes: 100 * 1024 + 512,
  },
  {
    name: 'journal-512+direct+eager',
    mode: 'journal',
    clusterBytes: 512,
    guestBytes: 48 * 1024,
    filled: true,
    backingBytes: 0,
    tuning: { ...direct, ...eager },
  },
];
