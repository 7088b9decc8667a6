/** A golden vector as the driver meets it: a device, the backing device where it names one, and what is served of it. */
import { type BlockDevice, MemoryDevice, ReadOnlyDevice } from '@qcow2/block-device';
import { loadVector, type VectorManifest } from '@qcow2/conformance';
import { legacyAes, luksPassphrase } from '@qcow2/crypto';
import { type ImageEncryption, type OpenOptions, openImage } from '@qcow2/driver';

export interface GoldenImage {
  readonly name: string;
  readonly manifest: VectorManifest;
  /** The image file; nobody changes it. */
  readonly bytes: Uint8Array;
  /** The same as a device that refuses writes; to be laid under an overlay. */
  readonly base: BlockDevice;
  /** What the driver must call the feature without which guest bytes can not be read; undefined: it is served. */
  /** The feature or the mark that keeps the driver from writing; undefined: it writes. */
  readonly unwritable: string | undefined;
  /** What it is opened with: a new device for the backing file that it names (`none` where it names none), and its passphrase. */
  options(): Promise<Pick<OpenOptions, 'backing' | 'dataFile' | 'encryption'>>;
}

const qcow2Magic = [0x51, 0x46, 0x49, 0xfb];

export function goldenImage(name: string): GoldenImage {
  const { manifest, bytes, companions } = loadVector(name);
  const base = new ReadOnlyDevice(MemoryDevice.fromBytes(bytes));
  const backingFile = manifest.files.find(({ role }) => role === 'backing');
  const backingName = manifest.qemu.info['backing-filename'] ?? '';
  const dataName = manifest.files.find(({ role }) => role === 'data')?.name;
  const data = dataName === undefined ? undefined : companions.get(dataName);
  return {
    name,
    manifest,
    bytes,
    base,
    unwritable: unwritableState(manifest),
    options: async () => {
      const below = backingFile === undefined ? undefined : companions.get(backingFile.name);
      const backing = below === undefined ? 'none' : await diskOf(windowOf(below, backingName));
      const encryption = encryptionOf(manifest);
      return {
        backing,
        ...(encryption === undefined ? {} : { encryption }),
        ...(data === undefined ? {} : { dataFile: dataFileOf(data) }),
      };
    },
  };
}

/** Nobody writes to it, but where something else is to be the reason. */
function dataFileOf(bytes: Uint8Array): BlockDevice {
  return new ReadOnlyDevice(MemoryDevice.fromBytes(bytes));
}

/** A name that begins with `json:` may ask for a part of the file. */
function windowOf(file: Uint8Array, name: string): Uint8Array {
  if (!name.startsWith('json:')) return file;
  const { offset = 0, size = file.length } = JSON.parse(name.slice(5)) as { offset?: number; size?: number };
  return file.subarray(offset, offset + size);
}

async function diskOf(file: Uint8Array): Promise<BlockDevice> {
  const device = new ReadOnlyDevice(MemoryDevice.fromBytes(file));
  const isQcow2 = qcow2Magic.every((byte, at) => file[at] === byte);
  return isQcow2 ? await openImage(device, { readOnly: true }) : device;
}

function encryptionOf({ qemu, passphrase }: VectorManifest): ImageEncryption | undefined {
  const secret = new TextEncoder().encode(passphrase ?? '');
  const { encrypt } = qemu.info['format-specific'].data;
  if (encrypt === undefined) return undefined;
  return encrypt.format === 'aes' ? legacyAes(secret) : luksPassphrase(secret);
}

/** By what QEMU said about the image, not by what we read in it. */
function unwritableState({ qemu }: VectorManifest): string | undefined {
  const format = qemu.info['format-specific'].data;
  if (format.corrupt === true) return 'the corrupt bit';
  return format['data-file'] === undefined ? undefined : 'a data file that is only read';
}
