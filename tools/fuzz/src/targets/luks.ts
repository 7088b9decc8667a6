/**
 * LUKS headers: fields of the header and of its slots, key material, and how long the encryption header is said to be. Asked are
 * the codec, which must encode again what it decoded, and, of one in eight, whoever has the passphrase: that opens the
 * slot, or does not, without reading beyond the header and without more rounds of key derivation than are allowed.
 */
import {
  decodeEncryptionHeaderPointer,
  decodeHeader,
  decodeLuksHeader,
  encodeLuksHeader,
  findHeaderExtension,
  luksSlotOffset,
} from '@qcow2/codec';
import { loadVector } from '@qcow2/conformance';
import { luksPassphrase } from '@qcow2/crypto';
import type { EncryptionHeaderArea } from '@qcow2/driver';
import {
  headerExtensionTypes,
  InvariantError,
  luksConstants,
  luksHeadBytes,
  luksHeaderLayout,
  luksKeySlotLayout,
} from '@qcow2/spec';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { mutateBytes, mutateField } from '../values.ts';

const vectors = ['luks', 'luks-512'] as const;
/** What the bases have, and no more: a run is to be short. */
const maxIterations = 20_000;

interface Base {
  readonly bytes: Uint8Array;
  readonly hostOffset: number;
  readonly passphrase: Uint8Array;
}

export class LuksTarget implements Target {
  readonly name = 'luks';
  readonly bases: readonly string[] = vectors;
  readonly limits = { oneBytes: 1 << 20, allBytes: 64 << 20 };
  readonly #loaded = new Map<string, Base>();
  #now: Base | undefined;
  #bytes = new Uint8Array();
  #lengthBytes = 0;

  async prepare(): Promise<void> {
    for (const name of vectors) {
      const { bytes, manifest } = loadVector(name);
      const { extensions } = decodeHeader(bytes.subarray(0, 65536));
      const data = findHeaderExtension(extensions, headerExtensionTypes.fullDiskEncryption);
      const { headerOffset, headerLengthBytes } = decodeEncryptionHeaderPointer(data ?? new Uint8Array());
      const header = new Uint8Array(headerLengthBytes);
      header.set(bytes.subarray(headerOffset, headerOffset + headerLengthBytes));
      const passphrase = new TextEncoder().encode(manifest.passphrase ?? '');
      this.#loaded.set(name, { bytes: header, hostOffset: headerOffset, passphrase });
    }
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#bytes = this.#now.bytes.slice();
    this.#lengthBytes = this.#bytes.length;
  }

  mutate(random: Random): void {
    const slot = luksSlotOffset(random.below(luksConstants.keySlots));
    const hints = [this.#lengthBytes, luksHeadBytes, this.#lengthBytes / 512, 8, 4000, maxIterations];
    switch (random.below(8)) {
      case 0:
      case 1:
        mutateField(this.#bytes, 0, luksHeaderLayout, random, hints);
        return;
      case 2:
      case 3:
      case 4:
        mutateField(this.#bytes, slot, luksKeySlotLayout, random, hints);
        return;
      case 5:
        // One slot as another one, its material included.
        this.#bytes.copyWithin(slot, luksSlotOffset(0), luksSlotOffset(1));
        return;
      case 6:
        this.#lengthBytes = random.pick([0, 511, luksHeadBytes, 4096, random.below(this.#bytes.length + 1)]);
        return;
      default:
        mutateBytes(this.#bytes.subarray(0, random.chance(2) ? luksHeadBytes : 70_000), random);
    }
  }

  seal(): void {}

  async run(variant: number, verdict: Verdict): Promise<void> {
    const { hostOffset, passphrase } = this.#now!;
    const lengthBytes = this.#lengthBytes;
    const head = this.#bytes.subarray(0, Math.min(luksHeadBytes, lengthBytes));
    const header = verdict.attempt('decode', () => decodeLuksHeader(head, { hostOffset, lengthBytes }));
    if (header !== undefined) {
      const active = header.slots.filter((slot) => slot.active).length;
      verdict.note(`${header.cipherMode}-${active}`);
      const encoded = verdict.attempt('encode', () => encodeLuksHeader(header, { hostOffset, lengthBytes }));
      const again =
        encoded && verdict.attempt('decode again', () => decodeLuksHeader(encoded, { lengthBytes }));
      if (JSON.stringify(again) !== JSON.stringify(header))
        verdict.finding('a header changed when it was encoded');
    }
    if (variant % 8 !== 0) return;
    const cipher = await verdict.attemptAsync(
      'unlock',
      () => luksPassphrase(passphrase, { maxIterations }).unlock(this.#area(hostOffset, lengthBytes)),
      { codes: ['WRONG_SECRET'] },
    );
    if (cipher === undefined) return;
    if (header === undefined) verdict.finding('what does not decode was opened');
    verdict.note('opened');
    cipher.decrypt(new Uint8Array(1024), 2 ** 52);
  }

  #area(hostOffset: number, lengthBytes: number): EncryptionHeaderArea {
    const refuse = (): never => {
      throw new InvariantError('a reader wrote to the header');
    };
    return {
      hostOffset,
      lengthBytes,
      read: async (at, into) => {
        if (at < 0 || at + into.length > lengthBytes)
          throw new InvariantError('read beyond the header', { value: at });
        into.set(this.#bytes.subarray(at, at + into.length));
      },
      write: async () => refuse(),
      flush: async () => refuse(),
    };
  }
}
