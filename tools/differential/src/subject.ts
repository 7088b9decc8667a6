/** The image that a run is about, with its backing file and its data file: made, opened in many ways, closed. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { legacyAes, luksPassphrase, newLuks } from '@qcow2/crypto';
import {
  type CheckReport,
  checkImage,
  createImage,
  type JournalOptions,
  type OpenOptions,
  openImage,
  type Qcow2Image,
  type RepairMode,
  type RepairReport,
  repairImage,
} from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import type { SeededRandom } from '@qcow2/seeded';
import { StateError } from '@qcow2/spec';
import { drawContent } from './content.ts';
import { files, passphrase } from './files.ts';
import { firstDiskBytes, type Kind } from './kinds.ts';
import type { Qemu } from './qemu.ts';

const phrase = new TextEncoder().encode(passphrase);
const compression = nodeCompression();

export class Subject {
  readonly kind: Kind;
  readonly #folder: string;
  #image: Qcow2Image | undefined;
  /** How it was opened last. */
  how = '';

  constructor(kind: Kind, folder: string) {
    this.kind = kind;
    this.#folder = folder;
  }

  /** The open image. */
  get image(): Qcow2Image {
    if (this.#image === undefined) throw new StateError('CLOSED', 'the image of this run is not open');
    return this.#image;
  }

  get isOpen(): boolean {
    return this.#image !== undefined;
  }

  path(name: keyof typeof files): string {
    return join(this.#folder, files[name]);
  }

  /** Make all files. Returns what the disk shows. */
  async make(random: SeededRandom, qemu: Qemu): Promise<Uint8Array> {
    const sizeBytes = firstDiskBytes(this.kind);
    const disk = new Uint8Array(sizeBytes);
    const below = await this.#makeBase(random, sizeBytes);
    disk.set(below.subarray(0, sizeBytes));
    if (this.#isTheirs(random)) await this.#makeTheirs(qemu, sizeBytes, random);
    else await this.#makeOurs(sizeBytes, random);
    return disk;
  }

  async open(random: SeededRandom): Promise<Qcow2Image> {
    const options = drawOptions(random, this.kind);
    this.how = JSON.stringify(options);
    this.#image = await this.openWith(false, { ...options, random: (into) => random.fill(into) });
    return this.#image;
  }

  /** Beside the image of this run: for reading, or by who has closed that one. */
  async openWith(readOnly: boolean, options: OpenOptions): Promise<Qcow2Image> {
    const opened: BlockDevice[] = [];
    const device = (name: keyof typeof files, forReading: boolean): BlockDevice => {
      const file = openFile(this.path(name), { readOnly: forReading });
      opened.push(file);
      return file;
    };
    try {
      const { kind } = this;
      const backing = kind.backing === 'none' ? 'none' : await this.#openBase(device('base', true));
      return await openImage(device('image', readOnly), {
        ...options,
        readOnly,
        backing,
        compression,
        ...(kind.data === 'inside' ? {} : { dataFile: device('data', readOnly) }),
        ...(kind.encryption === 'none' ? {} : { encryption: encryptionOf(kind) }),
      });
    } catch (error) {
      for (const file of opened) await file.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    const image = this.#image;
    this.#image = undefined;
    await image?.close();
  }

  /** Let go of it as it is, after a failure. */
  abandon(): void {
    this.#image?.abandon();
    this.#image = undefined;
  }

  /** Ours, of the closed image. */
  async check(): Promise<CheckReport> {
    const file = openFile(this.path('image'), { readOnly: true });
    try {
      return await checkImage(file);
    } finally {
      await file.close();
    }
  }

  /** Ours, of the closed image. */
  async repair(mode: RepairMode): Promise<RepairReport> {
    const file = openFile(this.path('image'));
    const data = this.kind.data === 'inside' ? undefined : openFile(this.path('data'));
    try {
      return await repairImage(file, { repair: mode, ...(data === undefined ? {} : { dataFile: data }) });
    } finally {
      await file.close();
      await data?.close();
    }
  }

  async #openBase(device: BlockDevice): Promise<BlockDevice> {
    if (this.kind.backing.startsWith('raw')) return device;
    return await openImage(device, { readOnly: true, backing: 'none' });
  }

  /** Returns its content. */
  async #makeBase(random: SeededRandom, sizeBytes: number): Promise<Uint8Array> {
    const { backing } = this.kind;
    if (backing === 'none') return new Uint8Array(0);
    const isRaw = backing.startsWith('raw');
    // A raw file ends within a sector.
    const odd = isRaw ? 100 : 0;
    const sectors = Math.floor(sizeBytes / 512);
    const lengthBytes = 512 * (backing.endsWith('longer') ? 2 * sectors : Math.floor(sectors * 0.6)) - odd;
    const content = new Uint8Array(lengthBytes);
    for (let at = 0; at < lengthBytes; ) {
      const stretch = Math.min(lengthBytes - at, 1 + random.below(lengthBytes / 6));
      if (random.below(4) > 0) content.set(drawContent(random, stretch), at);
      at += stretch;
    }
    if (isRaw) writeFileSync(this.path('base'), content);
    else await this.#writeBase(random, content);
    return content;
  }

  async #writeBase(random: SeededRandom, content: Uint8Array): Promise<void> {
    const file = openFile(this.path('base'), { create: 'exclusive' });
    await createImage(file, { sizeBytes: content.length, clusterBytes: random.pick([512, 4096, 65536]) });
    const base = await openImage(file);
    const step = 32768;
    for (let at = 0; at < content.length; at += step) {
      const piece = content.subarray(at, at + step);
      if (piece.some((byte) => byte !== 0)) await base.write(at, piece);
    }
    await base.close();
  }

  #isTheirs(random: SeededRandom): boolean {
    const { kind } = this;
    const drawn = random.chance(2);
    if (kind.encryption === 'aes') return true;
    // What QEMU makes of LUKS takes as long as it finds right; and in a small cluster its header leaves no room for a journal.
    const hasRoom = kind.log === 'ordered' || kind.log === 'lazy' || kind.clusterBytes >= 4096;
    return drawn && kind.encryption === 'none' && hasRoom;
  }

  async #makeTheirs(qemu: Qemu, sizeBytes: number, random: SeededRandom): Promise<void> {
    const { kind } = this;
    const options = [
      `compat=${kind.version === 2 ? '0.10' : '1.1'}`,
      `cluster_size=${kind.clusterBytes}`,
      `refcount_bits=${kind.refcountBits}`,
      ...(kind.extendedL2 ? ['extended_l2=on'] : []),
      ...(kind.log === 'lazy' ? ['lazy_refcounts=on'] : []),
      ...(kind.compression === 'zstd' ? ['compression_type=zstd'] : []),
      ...(kind.data === 'inside' ? [] : [`data_file=${files.data}`]),
      ...(kind.data === 'raw' ? ['data_file_raw=on'] : []),
      ...(kind.encryption === 'aes' ? ['encrypt.format=aes', 'encrypt.key-secret=s'] : []),
    ];
    const base = kind.backing === 'none' ? [] : ['-b', files.base, '-F', kind.backing.split('-')[0] ?? ''];
    const secret = kind.encryption === 'aes' ? ['--object', `secret,id=s,data=${passphrase}`] : [];
    const words = ['create', '-q', '-f', 'qcow2', ...secret, '-o', options.join(','), ...base];
    qemu.must([...words, files.image, `${sizeBytes}`]);
    if (kind.log !== 'journal' && kind.log !== 'draft') return;
    const image = await this.openWith(false, { random: (into) => random.fill(into) });
    await image.enableJournal(drawJournal(random, kind, kind.log));
    await image.close();
  }

  async #makeOurs(sizeBytes: number, random: SeededRandom): Promise<void> {
    const { kind } = this;
    const file = openFile(this.path('image'), { create: 'exclusive' });
    const data = kind.data === 'inside' ? undefined : openFile(this.path('data'), { create: 'exclusive' });
    const isJournalled = kind.log === 'journal' || kind.log === 'draft';
    await createImage(file, {
      sizeBytes,
      version: kind.version,
      clusterBytes: kind.clusterBytes,
      refcountBits: kind.refcountBits,
      extendedL2: kind.extendedL2,
      lazyRefcounts: kind.log === 'lazy',
      compressionType: kind.compression,
      random: (into) => random.fill(into),
      ...(isJournalled ? { journal: drawJournal(random, kind, kind.log) } : {}),
      ...(kind.backing === 'none'
        ? {}
        : { backingFile: files.base, backingFormat: kind.backing.split('-')[0] ?? '' }),
      ...(data === undefined
        ? {}
        : { dataFile: { device: data, name: files.data, raw: kind.data === 'raw' } }),
      ...(kind.encryption === 'luks'
        ? { encryption: newLuks({ passphrase: phrase, iterations: 1000, cipherBits: 128 }) }
        : {}),
    });
    await file.close();
    await data?.close();
  }
}

function encryptionOf({ encryption }: Kind) {
  return encryption === 'luks' ? luksPassphrase(phrase) : legacyAes(phrase);
}

/** Of a journal: small rings above all, which wrap soon. */
export function drawJournal(
  random: SeededRandom,
  { clusterBytes }: Kind,
  log: 'journal' | 'draft',
): JournalOptions {
  const blockBytes = Math.min(clusterBytes, random.pick([512, 4096]));
  // The draft wants 32 blocks behind its header.
  const sizeBytes = random.pick(log === 'draft' ? [262144, 1048576] : [65536, 131072, 1048576]);
  return { profile: log === 'draft' ? 'draft-2013' : 'v1', sizeBytes, blockBytes };
}

/** Sizes of caches, discards, what stays in memory; no timers, so that a seed brings back the same run. */
function drawOptions(random: SeededRandom, { clusterBytes, version }: Kind): OpenOptions {
  const caches = [
    {},
    { l2CacheSizeBytes: 1024, l2CacheEntryBytes: 512 },
    { cacheSizeBytes: 8 * clusterBytes },
    { refcountCacheSizeBytes: 16 * clusterBytes, decompressedBytes: 0 },
    { decompressedBytes: 2 * clusterBytes },
  ];
  const lazy = random.pick([undefined, undefined, true, false]);
  return {
    cache: { ...random.pick(caches), cacheCleanIntervalMs: 0 },
    discard: random.pick(['ignore', 'unmap']),
    ...(lazy === undefined || version === 2 ? {} : { lazyRefcounts: lazy }),
    journal: {
      commitIntervalMs: 0,
      ...(random.chance(2) ? {} : { directWriteBytes: random.pick([512, 4096, 262144]) }),
      ...(random.chance(2) ? {} : { overlayBytes: random.pick([8192, 131072]) }),
      ...(random.chance(2) ? {} : { directFlushBytes: random.pick([1024, 65536]) }),
      ...(random.chance(2) ? {} : { writeBackAt: random.pick([0.05, 0.6]) }),
      ...(random.chance(2) ? {} : { commitDataBytes: random.pick([4096, 65536]) }),
    },
  };
}
