/** The qcow2 driver as a system under test, in any configuration of `driver-configurations.ts`. */
import { deflateRawSync } from 'node:zlib';
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import { type ClusterCompression, inflateOnly, readEntryOffset } from '@qcow2/codec';
import {
  type CheckFinding,
  checkImage,
  createImage,
  type OpenOptions,
  openImage,
  type Qcow2Image,
  type RepairOptions,
  readImageHeader,
  repairImage,
} from '@qcow2/driver';
import { InvariantError, incompatibleFeatures } from '@qcow2/spec';
import { backingNamed, backingTurns, firstBacking, openBackingOf } from './backing-turns.ts';
import { bitmapsBehindEnd } from './bitmap-bits.ts';
import { CopyingDisk } from './copying-disk.ts';
import { damaged, dangersOf, readable } from './damaged-image.ts';
import { type DriverConfiguration, driverModes, journalBytes } from './driver-configurations.ts';
import { liveLogOf } from './live-log.ts';
import { noiseEncryption } from './noise-cipher.ts';
import { Partition } from './partition.ts';
import { describeDifference } from './recovery.ts';
import { sectorBytes } from './sector.ts';
import { frozenContent, shareClusters, tablesBehindEnd, twinPairs } from './shared-clusters.ts';
import type {
  BitmapState,
  FillRandom,
  IntegrityReport,
  LiveLog,
  OpenBitmaps,
  OpenSystem,
  Repair,
  SystemUnderTest,
} from './system-under-test.ts';
import { compressibleContentOf, mostGrownClusters, stampedContent } from './workload.ts';

/** The name by which images name their backing file, for tools that look for it. */
export const backingFileName = 'backing.raw';

/** On this thread: what a system does must follow from its requests alone. */
const compression: ClusterCompression = {
  ...inflateOnly,
  compress(_type, cluster) {
    const data = new Uint8Array(deflateRawSync(cluster, { windowBits: 12 }));
    return data.length < cluster.length ? data : undefined;
  },
};

const baseStamp = 1;
const backingStamp = 2;

/** Wider, narrower than before, and as at first: new blocks that are more, and fewer. */
const nextWidth: Readonly<Record<number, number>> = { 16: 64, 64: 8, 8: 16 };

export class DriverSystem implements SystemUnderTest {
  readonly configuration: DriverConfiguration;
  readonly leaksAreFailures: boolean;
  readonly hasSnapshots: boolean;
  readonly leaksForStrangers: boolean;
  readonly bitmaps?: NonNullable<SystemUnderTest['bitmaps']>;
  readonly firstBacking?: string;
  readonly repair?: Repair;
  readonly #initial: Uint8Array;
  readonly #leaksInOperations: boolean;

  constructor(configuration: DriverConfiguration) {
    this.configuration = configuration;
    const { leaksAreFailures, leaksInOperations } = driverModes[configuration.mode];
    this.hasSnapshots = configuration.letters.includes('n');
    // Bitmaps are changed at rest, when no mark of lazy refcounts stands there [BMP-005].
    const leaksInBitmaps = configuration.bitmaps !== undefined && configuration.mode !== 'journal';
    const hasOperations = this.hasSnapshots || configuration.letters.includes('y');
    this.#leaksInOperations = leaksInBitmaps || (hasOperations && leaksInOperations);
    // A repair leaves none.
    const { repair } = configuration;
    this.leaksAreFailures = repair !== undefined || (leaksAreFailures && !this.#leaksInOperations);
    if (repair !== undefined) this.repair = this.#repairOf();
    // The draft counts the clusters of its journal, and nobody else knows who refers to them.
    this.leaksForStrangers = configuration.mode === 'draft-2013';
    if (configuration.hasTurns === true) this.firstBacking = firstBacking;
    const { guestBytes, clusterBytes, filled, sharing } = configuration;
    if (configuration.bitmaps !== undefined) {
      const clean = { inconsistent: false, dirty: new Uint8Array(guestBytes / sectorBytes) };
      this.bitmaps = {
        promise: configuration.mode === 'journal' ? 'too-much' : 'in-use',
        initial: configuration.bitmaps.map((one) => ({ ...one, ...clean })),
      };
    }
    this.#initial = new Uint8Array(guestBytes);
    this.#initial.set(this.backingContent().subarray(0, guestBytes));
    if (!filled) return;
    for (const { offset, bytes } of this.#filling()) this.#initial.set(bytes, offset);
    if (sharing !== 'twins') return;
    for (const [left, right] of twinPairs) {
      this.#initial.copyWithin(right * clusterBytes, left * clusterBytes, (left + 1) * clusterBytes);
    }
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

  get letters(): string {
    return this.configuration.letters;
  }

  /** Of the file that the image stands on at first. */
  backingContent(): Uint8Array {
    if (this.configuration.hasTurns === true) return backingTurns[0]!.content;
    return stampedContent(backingStamp, this.configuration.backingBytes);
  }

  initialContent(): Uint8Array {
    return this.#initial;
  }

  async create(device: BlockDevice, random: FillRandom): Promise<void> {
    const { guestBytes, clusterBytes, mode, filled, sharing } = this.configuration;
    const { journalBlockBytes = 512, dataFile, unmapped, encrypted } = this.configuration;
    const { image: imageFile, data } = this.#files(device);
    if (data !== undefined) await device.resize(data.sizeBytes);
    await createImage(imageFile, {
      sizeBytes: guestBytes,
      clusterBytes,
      extendedL2: this.configuration.extendedL2 ?? false,
      ...driverModes[mode].create(journalBlockBytes),
      random,
      ...(this.backingContent().length > 0 ? { backingFile: backingFileName, backingFormat: 'raw' } : {}),
      ...(data === undefined
        ? {}
        : { dataFile: { device: data, name: 'guest.data', raw: dataFile === 'raw' } }),
      ...(encrypted === true ? { encryption: noiseEncryption } : {}),
    });
    if (unmapped === true) await unmapAll(imageFile);
    if (!filled) return;
    const image = await openImage(imageFile, this.#openOptions(random, false, data));
    const { compressed = false } = this.configuration;
    for (const { offset, bytes } of this.#filling()) {
      if (compressed && bytes.length % clusterBytes === 0) await image.writeCompressed(offset, bytes);
      else await image.write(offset, bytes);
    }
    for (const { name, ...bitmap } of this.configuration.bitmaps ?? []) await image.addBitmap(name, bitmap);
    await image.close();
    if (sharing === 'none') return;
    await device.write(0, shareClusters(await allBytes(device), sharing));
    await device.flush();
  }

  async open(device: BlockDevice, options: { random: FillRandom; readOnly: boolean }): Promise<OpenSystem> {
    const files = this.#files(device);
    const { repair } = this.configuration;
    const openOptions = {
      ...this.#openOptions(options.random, options.readOnly, files.data),
      ...(this.configuration.hasTurns === true ? await namedBacking(files.image) : {}),
    };
    if (repair !== undefined && !options.readOnly) await repairWhole(files.image, { ...openOptions, repair });
    const { copies = false, preallocation = 'off' } = this.configuration;
    const image = await openImage(copies ? new CopyingDisk(files.image) : files.image, openOptions);
    return {
      guest: image,
      grow: (sizeBytes) => image.resize(sizeBytes, { preallocation }),
      ...(copies ? { copy: (offset: number, bytes: Uint8Array) => copyInto(image, offset, bytes) } : {}),
      compress: (offset, bytes) => image.writeCompressed(offset, bytes),
      rest: () => image.quiesce(),
      resizeJournal: () => {
        const isSmall = image.journalStatus()?.lengthBytes === journalBytes;
        return image.resizeJournal({ sizeBytes: isSmall ? 2 * journalBytes : journalBytes });
      },
      changeWidth: () => image.amend({ refcountBits: nextWidth[image.info().refcountBits] ?? 16 }),
      shrink: async (smaller) => image.resize(smaller, { shrink: true }),
      ...(this.hasSnapshots ? { snapshots: snapshotsOf(image) } : {}),
      ...(this.bitmaps === undefined ? {} : { bitmaps: bitmapsOf(image) }),
      ...(this.firstBacking === undefined ? {} : { backing: openBackingOf(image) }),
      // All of the driver's work happens within requests: there is nothing to wait for.
      settle: () => undefined,
      close: () => image.close(),
      abandon: () => image.abandon(),
    };
  }

  #repairOf(): Repair {
    return {
      damage: async (device, kind) => {
        for (const [at, bytes] of damaged(await allBytes(device), kind)) {
          await device.write(at, bytes);
          await device.flush();
        }
      },
      look: async (device) => {
        const options = this.#openOptions(() => undefined, true, undefined);
        const disk = await openImage(MemoryDevice.fromBytes(readable(await allBytes(device))), options);
        const content = await allBytes(disk);
        disk.abandon();
        return content;
      },
      dangers: dangersOf,
    };
  }

  /** Of a journal v1, where the image is dirty. */
  async liveLog(device: BlockDevice): Promise<LiveLog | undefined> {
    const { image, data } = this.#files(device);
    const { header } = await readImageHeader(image);
    if ((header.incompatibleFeatures & incompatibleFeatures.journalDirty) === 0n) return undefined;
    const { journal } = await checkImage(image);
    if (journal === undefined) return undefined;
    const log = await liveLogOf(image, journal);
    const start = data?.sizeBytes ?? 0;
    return {
      ...log,
      areaOffset: start + log.areaOffset,
      ringOffset: start + log.ringOffset,
      slotOffsets: log.slotOffsets.map((offset) => start + offset),
    };
  }

  /**
   * Lazy refcounts: whatever else is to be repaired, every mapping lies within the file (LAZ-003). Our repair takes
   * others for lost length; QEMU's calls them corrupt, and does not repair them.
   */
  async checkCrashed(device: BlockDevice): Promise<readonly string[]> {
    // Damage may lead anywhere.
    if (this.configuration.mode !== 'lazy' || this.repair !== undefined) return [];
    const { findings } = await checkImage(this.#files(device).image);
    return findings.filter(({ code }) => code === 'OUT_OF_RANGE').map(({ message }) => message);
  }

  async check(device: BlockDevice): Promise<IntegrityReport> {
    const files = this.#files(device);
    const report = await checkImage(files.image);
    const leaks = report.findings.filter(({ severity }) => severity === 'leak');
    const excused = report.findings.filter((one) => this.#isExcused(one) || this.#followsFrom(leaks, one));
    const findings = report.findings
      .filter((one) => !excused.includes(one))
      .slice(0, 8)
      .map(({ severity, code, message }) => `${severity} ${code}: ${message}`);
    let errors = report.corruptions + report.checkErrors - excused.length;
    const bytes = await allBytes(device);
    // Nobody's leak, since the L1 table leads there; and nothing that anybody asked for [JRN-INTENT-024].
    const { mode, dataFile } = this.configuration;
    const behind = mode === 'journal' && dataFile === undefined ? tablesBehindEnd(bytes) : 0;
    if (behind > 0) {
      errors++;
      findings.push(`${behind} L2 tables of a growth that was not ended`);
    }
    const strayed = this.bitmaps === undefined ? [] : await bitmapsBehindEnd(files.image);
    for (const name of strayed) {
      errors++;
      findings.push(`bitmap '${name}' says something of what is behind the disk's end`);
    }
    if (this.configuration.sharing === 'snapshot') {
      const frozen = frozenContent(bytes);
      const difference = describeDifference(this.#initial, frozen);
      if (difference !== undefined) {
        errors++;
        findings.push(`the snapshot's content changed: ${difference}`);
      }
    }
    if (this.configuration.dataFile === 'raw' && files.data !== undefined) {
      const difference = await this.#differenceOfRaw(files.image, files.data);
      if (difference !== undefined) {
        errors++;
        findings.push(`the raw data file is not the disk: ${difference}`);
      }
    }
    return { errors, leaks: report.leaks, findings };
  }

  /** Where the disk, read by its mapping, is not what its raw data file has. */
  async #differenceOfRaw(image: BlockDevice, data: BlockDevice): Promise<string | undefined> {
    const disk = await openImage(image, { readOnly: true, dataFile: data });
    const seen = await allBytes(disk);
    return describeDifference((await allBytes(data)).subarray(0, seen.length), seen);
  }

  /** Where the image stands on the disk of the lab. */
  imageFile(disk: BlockDevice): BlockDevice {
    return this.#files(disk).image;
  }

  /** The disk of the lab as the files that the image consists of. */
  #files(disk: BlockDevice): { readonly image: BlockDevice; readonly data: BlockDevice | undefined } {
    const { dataFile, guestBytes, clusterBytes } = this.configuration;
    if (dataFile === undefined) return { image: disk, data: undefined };
    const lengthBytes = guestBytes + mostGrownClusters * clusterBytes;
    return { image: new Partition(disk, lengthBytes), data: new Partition(disk, 0, lengthBytes) };
  }

  /**
   * When one of two twins goes its own way, the other is alone and its COPIED flag stays clear: nothing says which
   * entry refers to a host cluster. It costs a needless copy, never data; and no image that QEMU makes has twins. Damage makes
   * some: a guest's write that is replayed when the repair is done leaves one of them alone.
   */
  #isExcused({ code, message }: CheckFinding): boolean {
    return (
      (this.configuration.sharing === 'twins' || this.repair !== undefined) &&
      code === 'BAD_FIELD' &&
      message === 'the copied flag is clear and the refcount is 1'
    );
  }

  /** Where an operation leaks refcounts, flags are judged by what the refcounts say when that is repaired. */
  #followsFrom(leaks: readonly CheckFinding[], { code, severity, hostOffset }: CheckFinding): boolean {
    if (!this.#leaksInOperations || severity === 'leak' || code !== 'BAD_FIELD') return false;
    return leaks.some((leak) => leak.hostOffset === hostOffset);
  }

  #openOptions(random: FillRandom, readOnly: boolean, dataFile: BlockDevice | undefined): OpenOptions {
    const { tuning, encrypted, discard = 'ignore' } = this.configuration;
    const backing = this.backingContent();
    return {
      readOnly,
      random,
      compression,
      // No timers: what a system does must follow from its requests alone.
      journal: { ...tuning, commitIntervalMs: 0 },
      discard,
      ...(backing.length > 0 ? { backing: MemoryDevice.fromBytes(backing) } : {}),
      ...(dataFile === undefined ? {} : { dataFile }),
      ...(encrypted === true ? { encryption: noiseEncryption } : {}),
    };
  }

  #filling(): { offset: number; bytes: Uint8Array }[] {
    const { clusterBytes, guestBytes } = this.configuration;
    const stamped =
      this.configuration.compressed === true
        ? compressibleContentOf(-baseStamp, 0, guestBytes)
        : stampedContent(baseStamp, guestBytes);
    const part = (offset: number, lengthBytes: number) => ({
      offset,
      bytes: stamped.slice(offset, offset + lengthBytes),
    });
    return [part(0, 3 * clusterBytes), part(5 * clusterBytes, clusterBytes / 2)];
  }
}

/** Of bytes that stand on another device. @returns bytes copied, from the first on */
function copyInto(image: Qcow2Image, offset: number, bytes: Uint8Array): Promise<number> {
  const device = MemoryDevice.fromBytes(bytes.slice());
  return image.copyFrom({ device, offset: 0, lengthBytes: bytes.length }, offset);
}

/** @throws INVARIANT where something is left */
async function repairWhole(device: BlockDevice, options: RepairOptions): Promise<void> {
  const { left } = await repairImage(device, options);
  if (left.corruptions + left.leaks + left.checkErrors === 0) return;
  const findings = left.findings.slice(0, 4).map(({ message }) => message);
  throw new InvariantError(`a repair has left something: ${findings.join('; ')}`);
}

/** What the header names. Nothing that waits in a log changes that. */
async function namedBacking(image: BlockDevice): Promise<Pick<OpenOptions, 'backing'>> {
  const { content } = backingNamed((await readImageHeader(image)).header.backingFileName);
  return { backing: content.length === 0 ? 'none' : MemoryDevice.fromBytes(content) };
}

/** Every L2 entry is empty, as where a program that is not this one has discarded the whole disk. */
async function unmapAll(image: BlockDevice): Promise<void> {
  const { header } = await readImageHeader(image);
  const l1 = new Uint8Array(header.l1Entries * 8);
  await image.read(header.l1Offset, l1);
  for (let at = 0; at < l1.length; at += 8) {
    await image.writeZeroes(readEntryOffset(new DataView(l1.buffer), at), 2 ** header.clusterBits);
  }
  await image.flush();
}

/** Snapshots by their names, which are different here. */
function snapshotsOf(image: Qcow2Image): NonNullable<OpenSystem['snapshots']> {
  return {
    names: () => image.snapshots.map(({ name }) => name),
    create: (name) => image.createSnapshot({ name, date: new Date(0) }),
    apply: (name) => image.applySnapshot({ name }),
    delete: (name) => image.deleteSnapshot({ name }),
    read: async (name) => {
      const device = await image.openSnapshot({ name });
      const bytes = new Uint8Array(device.sizeBytes);
      await device.read(0, bytes);
      await device.close();
      return bytes;
    },
  };
}

function bitmapsOf(image: Qcow2Image): OpenBitmaps {
  return {
    list: async () => {
      const states: BitmapState[] = [];
      for (const { name, granularityBytes, enabled, inconsistent } of await image.bitmaps()) {
        const dirty = new Uint8Array(image.sizeBytes / sectorBytes);
        const ranges = inconsistent ? [] : await image.dirtyRanges(name);
        for (const { offset, lengthBytes } of ranges) {
          dirty.fill(1, offset / sectorBytes, (offset + lengthBytes) / sectorBytes);
        }
        states.push({ name, granularityBytes, enabled, inconsistent, dirty });
      }
      return states;
    },
    add: (name, granularityBytes) => image.addBitmap(name, { granularityBytes }),
    remove: (name) => image.removeBitmap(name),
    clear: (name) => image.clearBitmap(name),
    merge: (name, source) => image.mergeBitmap(name, source),
    enable: (name, enabled) => (enabled ? image.enableBitmap(name) : image.disableBitmap(name)),
  };
}

async function allBytes(device: BlockDevice): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}
