/**
 * Whole images with damaged compressed clusters: the data, of deflate and of zstd, and the descriptors that lead to it. Besides
 * what is held against every image, the two ways to read deflate must agree about it.
 */
import { inflateRawSync } from 'node:zlib';
import { inflateOnly, outlineZstdFrame, readCompressedLengthBytes, readCompressedOffset } from '@qcow2/codec';
import { nodeCompression } from '@qcow2/compression';
import { walkImage } from '@qcow2/conformance';
import { compressionTypes } from '@qcow2/spec';
import { goldenImages, type ImageBase } from '../images.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { mutateBytes, mutateInteger } from '../values.ts';
import { ImageProbe } from './image.ts';

const vectors = ['zlib-512', 'zlib-4k', 'zlib-mixed', 'zstd-512', 'zstd-4k', 'zstd-mixed'] as const;
const compressedBit = 0x40;

interface Loaded {
  readonly probe: ImageProbe;
  readonly clusterBits: number;
  readonly compressionType: number;
  /** Places of the L2 entries that lead to compressed data. */
  readonly entries: readonly number[];
  readonly hints: readonly number[];
}

export class CompressedTarget implements Target {
  readonly name = 'compressed';
  readonly bases = vectors;
  readonly limits = { oneBytes: 4 << 20, allBytes: 256 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    for (const base of goldenImages(vectors)) this.#loaded.set(base.name, loaded(base));
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.probe.device.reset();
  }

  mutate(random: Random): void {
    const { probe, entries, hints, clusterBits } = this.#now!;
    const { device } = probe;
    const entry = random.pick(entries);
    if (random.chance(4)) {
      device.touch(entry, 8);
      mutateInteger(device.bytes, entry, 8, random, hints);
      // It mostly leads to compressed data still.
      if (!random.chance(4)) device.bytes[entry] = (device.bytes[entry]! & 0x3f) | compressedBit;
      return;
    }
    const data = this.#data(entry);
    if (data === undefined) return;
    const { at, lengthBytes } = data;
    device.touch(at, lengthBytes);
    const bytes = device.bytes.subarray(at, at + lengthBytes);
    if (random.chance(6)) {
      // The beginning of another one's data in this one's place.
      const other = this.#data(random.pick(entries));
      if (other === undefined) return;
      const length = Math.min(lengthBytes, other.lengthBytes, 1 + random.below(2 ** clusterBits));
      device.bytes.copyWithin(at, other.at, other.at + length);
      return;
    }
    // Heads say most: how codes are made, how long blocks are, what a frame asks for.
    mutateBytes(random.chance(3) ? bytes : bytes.subarray(0, 16), random);
  }

  seal(): void {}

  async run(variant: number, verdict: Verdict): Promise<void> {
    const { probe, entries, compressionType, clusterBits } = this.#now!;
    const data = this.#data(entries[variant % entries.length]!);
    if (data !== undefined) {
      const bytes = probe.device.bytes.slice(data.at, data.at + data.lengthBytes);
      const clusterBytes = 2 ** clusterBits;
      if (compressionType === compressionTypes.deflate) compareInflations(bytes, clusterBytes, verdict);
      else verdict.attempt('outline', () => outlineZstdFrame(bytes, clusterBytes));
    }
    await probe.run(variant, verdict);
  }

  /** Where an entry leads, as far as that is in the base. */
  #data(entry: number): { readonly at: number; readonly lengthBytes: number } | undefined {
    const { probe, clusterBits } = this.#now!;
    const { bytes } = probe.device;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const at = readCompressedOffset(view, entry, clusterBits);
    const lengthBytes = Math.min(readCompressedLengthBytes(view, entry, clusterBits), bytes.length - at);
    return lengthBytes > 0 ? { at, lengthBytes } : undefined;
  }
}

/** Ours and Node's make the same cluster, or both refuse. */
function compareInflations(bytes: Uint8Array, clusterBytes: number, verdict: Verdict): void {
  const ours = verdict.attempt('inflate', () =>
    inflateOnly.decompress(compressionTypes.deflate, bytes, clusterBytes),
  );
  const theirs = nodeInflation(bytes, clusterBytes);
  const same =
    ours instanceof Uint8Array && theirs !== undefined
      ? Buffer.compare(ours, theirs) === 0
      : ours === undefined && theirs === undefined;
  if (!same) verdict.finding('the two ways to read deflate do not agree');
}

function nodeInflation(bytes: Uint8Array, clusterBytes: number): Uint8Array | undefined {
  try {
    // 2: Z_SYNC_FLUSH: what is cut off is taken as far as it goes.
    const made = inflateRawSync(bytes, { finishFlush: 2, maxOutputLength: clusterBytes });
    return made.length === clusterBytes ? made : undefined;
  } catch {
    return undefined;
  }
}

function loaded(base: ImageBase): Loaded {
  const { structures, clusterBytes, header } = walkImage(base.bytes);
  const { clusterBits, compressionType } = header;
  const hints = new Set([base.bytes.length, clusterBytes, 0, 2 ** 30]);
  for (const { at } of structures) hints.add(at);
  const view = new DataView(base.bytes.buffer, base.bytes.byteOffset, base.bytes.byteLength);
  const entries: number[] = [];
  for (const { kind, at, lengthBytes } of structures) {
    if (kind !== 'l2-table') continue;
    for (let entry = at; entry < at + lengthBytes; entry += 8) {
      if ((base.bytes[entry]! & compressedBit) === 0) continue;
      entries.push(entry);
      hints.add(Number(view.getBigUint64(entry)));
    }
  }
  const probe = new ImageProbe(base, nodeCompression());
  return { probe, clusterBits, compressionType, entries, hints: [...hints] };
}
