/**
 * Headers, extensions and feature names through the codec; one in sixteen as a whole image, opened for reading or
 * checked. What decodes must encode again to what decodes to the same.
 */
import {
  decodeBackingFormat,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeExternalDataFile,
  decodeFeatureNames,
  decodeHeader,
  encodeHeader,
  findHeaderExtension,
  type Qcow2Header,
  unknownIncompatibleFeatures,
} from '@qcow2/codec';
import { decodeJournalExtension } from '@qcow2/codec/journal/v1';
import { headerExtensionTypes } from '@qcow2/spec';
import { mutateHeader } from '../header-mutation.ts';
import { goldenImages, type ImageBase, journalledImages } from '../images.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { ImageProbe } from './image.ts';

const vectors = [
  'v2-512',
  'v3-1k',
  'v3-4k',
  'backing-raw',
  'backing-v2',
  'bitmap-and-snapshot',
  'corrupt-bit',
  'extended-l2-16k',
  'lazy-refcounts-dirty',
  'snapshot-unicode',
  'zstd-4k',
] as const;

/** Header and extensions stand in front; the rest of a large first cluster is zeros. */
const mutatedBytes = 2048;

export class HeaderTarget implements Target {
  readonly name = 'header';
  readonly bases = [...vectors, 'short', 'backed'];
  readonly limits = { oneBytes: 4 << 20, allBytes: 256 << 20 };
  readonly #loaded = new Map<string, { readonly probe: ImageProbe; readonly clusterBytes: number }>();
  #now: ImageProbe | undefined;
  #clusterBytes = 0;

  async prepare(): Promise<void> {
    const journalled = (await journalledImages()).filter(({ name }) => name === 'short' || name === 'backed');
    for (const base of [...goldenImages(vectors), ...journalled]) this.#add(base);
  }

  #add(base: ImageBase): void {
    const clusterBytes = 2 ** decodeHeader(base.bytes.subarray(0, 65536)).clusterBits;
    this.#loaded.set(base.name, { probe: new ImageProbe(base), clusterBytes });
  }

  load(base: string): void {
    const { probe, clusterBytes } = this.#loaded.get(base)!;
    this.#now = probe;
    this.#clusterBytes = clusterBytes;
    probe.device.reset();
  }

  mutate(random: Random): void {
    const { device } = this.#now!;
    if (random.chance(40)) {
      device.cut(random.below(device.sizeBytes + 1));
      return;
    }
    const length = Math.min(device.sizeBytes, this.#clusterBytes, mutatedBytes);
    if (length < 128) return;
    device.touch(0, length);
    const hints = [device.sizeBytes, this.#clusterBytes, length, this.#clusterBytes * 2, 2 ** 25, 2 ** 23];
    mutateHeader(device.bytes.subarray(0, length), random, hints);
  }

  seal(): void {}

  run(variant: number, verdict: Verdict): void | Promise<void> {
    const { device } = this.#now!;
    if (variant % 16 === 0) return this.#now!.run(variant >>> 4, verdict);
    const head = device.bytes.subarray(0, Math.min(device.sizeBytes, this.#clusterBytes));
    const header = verdict.attempt('decode', () => decodeHeader(head, device.sizeBytes));
    if (header === undefined) return;
    verdict.note(`v${header.version}`);
    this.#extensions(header, verdict);
    this.#roundTrip(header, verdict);
  }

  #extensions(header: Qcow2Header, verdict: Verdict): void {
    const options = { hostOffset: 0, clusterBytes: 2 ** header.clusterBits };
    const decoders: readonly (readonly [number, (data: Uint8Array) => unknown])[] = [
      [headerExtensionTypes.backingFormat, (data) => decodeBackingFormat(data)],
      [headerExtensionTypes.featureNameTable, (data) => decodeFeatureNames(data, options)],
      [headerExtensionTypes.bitmaps, (data) => decodeBitmapsExtension(data, options)],
      [headerExtensionTypes.fullDiskEncryption, (data) => decodeEncryptionHeaderPointer(data, options)],
      [headerExtensionTypes.externalDataFile, (data) => decodeExternalDataFile(data)],
      [headerExtensionTypes.journal, (data) => decodeJournalExtension(data, options)],
    ];
    for (const [type, decode] of decoders) {
      const data = findHeaderExtension(header.extensions, type);
      if (data !== undefined && verdict.attempt(type.toString(16), () => decode(data)) !== undefined) {
        verdict.note(type.toString(16));
      }
    }
    const unknown = verdict.attempt('features', () => unknownIncompatibleFeatures(header));
    verdict.noteCount('unknown', unknown?.length ?? 0);
  }

  #roundTrip(header: Qcow2Header, verdict: Verdict): void {
    const encoded = verdict.attempt('encode', () => encodeHeader(header), { codes: ['NO_SPACE'] });
    if (encoded === undefined) return;
    const again = verdict.attempt('decode again', () => decodeHeader(encoded));
    if (again === undefined) {
      verdict.finding('a header that was encoded does not decode');
      return;
    }
    for (const field of [
      'sizeBytes',
      'l1Offset',
      'l1Entries',
      'refcountTableOffset',
      'clusterBits',
    ] as const) {
      if (again[field] !== header[field])
        verdict.finding(`${field} changed from ${header[field]} to ${again[field]}`);
    }
    if (again.backingFileName !== header.backingFileName) verdict.finding('the backing file name changed');
    if (again.extensions.length !== header.extensions.length) verdict.finding('an extension was lost');
  }
}
