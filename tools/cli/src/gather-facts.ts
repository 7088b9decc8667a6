/**
 * Read the facts about an image out of its header and the tables that hang on it, and nothing else: no L1
 * table, no refcounts, no other file. So `info` works for every image whose metadata can be read, also for
 * those that the driver does not open (encrypted, external data file, a journal to be replayed), and never
 * follows a name that stands in an image.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readPadded } from '@qcow2/block-device';
import {
  decodeBackingFormat,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeExternalDataFile,
  decodeLuksHeader,
  decodeSnapshotTable,
  findHeaderExtension,
  type Qcow2Header,
  type Snapshot,
  type UnknownFeature,
  unknownIncompatibleFeatures,
} from '@qcow2/codec';
import { readImageHeader } from '@qcow2/driver';
import {
  autoclearFeatures,
  bitmapFlags,
  compatibleFeatures,
  cryptMethods,
  FormatError,
  headerExtensionTypes,
  incompatibleFeatures,
  luksHeadBytes,
  qcow2Limits,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { besideImage, isNbd, protocolOf } from './file-name.ts';
import type { BitmapFacts, Qcow2Facts, SnapshotFacts } from './image-facts.ts';
import { gatherJournalFacts } from './journal-facts.ts';
import { type LuksFacts, luksFacts } from './luks-facts.ts';

/** The header of an image, checked. @throws FormatError; UNSUPPORTED_FEATURE naming what is not known */
export async function readHeader(device: BlockDevice): Promise<Qcow2Header> {
  const { header } = await readImageHeader(device);
  const unknown = unknownIncompatibleFeatures(header);
  if (unknown.length > 0) {
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'features that are not known', {
      feature: featureList(unknown),
    });
  }
  return header;
}

/** QEMU's list: the names that the image's table gives, then the mask of the bits that it does not name. */
function featureList(unknown: readonly UnknownFeature[]): string {
  const isNamed = ({ bit, name }: UnknownFeature): boolean => name !== `incompatible feature bit ${bit}`;
  const names = unknown.filter(isNamed).map((feature) => feature.name);
  const mask = unknown
    .filter((feature) => !isNamed(feature))
    .reduce((bits, feature) => bits | (1n << BigInt(feature.bit)), 0n);
  if (mask !== 0n) names.push(`Unknown incompatible feature: ${mask.toString(16)}`);
  return names.join(', ');
}

/**
 * @param path of the image, for names of files beside it
 * @throws FormatError for metadata that can not be right
 */
export async function gatherFacts(device: BlockDevice, path: string): Promise<Qcow2Facts> {
  const header = await readHeader(device);
  const has = (feature: bigint): boolean => (header.incompatibleFeatures & feature) !== 0n;
  const backingFile = header.backingFileName;
  const external = has(incompatibleFeatures.externalDataFile);
  return {
    version: header.version === 2 ? 2 : 3,
    clusterBytes: 2 ** header.clusterBits,
    compressionType: compressionName(header.compressionType),
    lazyRefcounts: (header.compatibleFeatures & compatibleFeatures.lazyRefcounts) !== 0n,
    refcountBits: 2 ** header.refcountOrder,
    corrupt: has(incompatibleFeatures.corrupt),
    extendedL2: has(incompatibleFeatures.extendedL2),
    dirty: has(incompatibleFeatures.dirty),
    backingFile,
    backingFormat: extensionText(header, headerExtensionTypes.backingFormat, decodeBackingFormat),
    fullBackingFile:
      backingFile === undefined || !hasPlaces(path, backingFile) ? undefined : besideImage(path, backingFile),
    dataFile: external
      ? extensionText(header, headerExtensionTypes.externalDataFile, decodeExternalDataFile)
      : undefined,
    dataFileRaw: external ? (header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n : undefined,
    encryption: await gatherEncryption(device, header),
    snapshots: await gatherSnapshots(device, header),
    bitmaps: await gatherBitmaps(device, header),
    journal: await gatherJournalFacts(device, header),
  };
}

/** A relative name beside an export of an NBD server is that of nothing. */
function hasPlaces(path: string, name: string): boolean {
  return !isNbd(path) || protocolOf(name) !== undefined || name.startsWith('/');
}

const compressionNames: readonly string[] = ['zlib', 'zstd'];

function compressionName(type: number): string {
  const name = compressionNames[type];
  if (name !== undefined) return name;
  throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'a compression type that is not known', {
    feature: 'compression type',
    field: 'compressionType',
    value: type,
    hostOffset: 104,
  });
}

function extensionText(
  header: Qcow2Header,
  type: number,
  decode: (data: Uint8Array) => string,
): string | undefined {
  const data = findHeaderExtension(header.extensions, type);
  return data === undefined ? undefined : decode(data);
}

async function gatherEncryption(
  device: BlockDevice,
  header: Qcow2Header,
): Promise<'aes' | LuksFacts | undefined> {
  if (header.cryptMethod === cryptMethods.none) return undefined;
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.fullDiskEncryption);
  if (header.cryptMethod === cryptMethods.aes || data === undefined) return 'aes';
  const pointer = decodeEncryptionHeaderPointer(data, { clusterBytes: 2 ** header.clusterBits });
  const { headerOffset: hostOffset, headerLengthBytes: lengthBytes } = pointer;
  const head = await readUpTo(device, hostOffset, Math.min(luksHeadBytes, lengthBytes));
  return luksFacts(decodeLuksHeader(head, { hostOffset, lengthBytes }));
}

async function gatherSnapshots(device: BlockDevice, header: Qcow2Header): Promise<SnapshotFacts[]> {
  if (header.snapshotCount === 0) return [];
  const bytes = await readSnapshotTable(device, header);
  return bytes.map((snapshot) => ({
    id: snapshot.id,
    name: snapshot.name,
    vmStateBytes: snapshot.vmStateLengthBytes,
    dateSeconds: snapshot.dateSeconds,
    dateNanoseconds: snapshot.dateNanoseconds,
    vmClockNanoseconds: snapshot.vmClockNanoseconds,
    instructionCount:
      snapshot.instructionCount === noInstructionCount ? undefined : snapshot.instructionCount,
  }));
}

/** All ones: the machine did not count instructions. */
const noInstructionCount = 2n ** 64n - 1n;
const firstSnapshotRead = 64 * 1024;

/** How long the table is, only decoding tells: read more, until it decodes or the file or the limit ends. */
async function readSnapshotTable(device: BlockDevice, header: Qcow2Header): Promise<readonly Snapshot[]> {
  const { snapshotsOffset: hostOffset, snapshotCount } = header;
  for (let lengthBytes = firstSnapshotRead; ; lengthBytes *= 4) {
    const bytes = await readUpTo(
      device,
      hostOffset,
      Math.min(lengthBytes, qcow2Limits.maxSnapshotTableBytes),
    );
    const complete = bytes.length < lengthBytes;
    try {
      return decodeSnapshotTable(bytes, snapshotCount, { hostOffset, clusterBytes: 2 ** header.clusterBits })
        .snapshots;
    } catch (error) {
      if (complete || !(error instanceof FormatError) || error.code !== 'TRUNCATED') throw error;
    }
  }
}

/** Without the autoclear bit, a writer that does not know bitmaps has been there: they are worth nothing. */
async function gatherBitmaps(device: BlockDevice, header: Qcow2Header): Promise<BitmapFacts[]> {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
  if (data === undefined || (header.autoclearFeatures & autoclearFeatures.bitmaps) === 0n) return [];
  const clusterBytes = 2 ** header.clusterBits;
  const { bitmapCount, directoryOffset, directoryLengthBytes } = decodeBitmapsExtension(data, {
    clusterBytes,
  });
  const bytes = await readUpTo(device, directoryOffset, directoryLengthBytes);
  const entries = decodeBitmapDirectory(bytes, bitmapCount, { hostOffset: directoryOffset, clusterBytes });
  return entries.map((entry) => ({
    name: entry.name,
    granularityBytes: 2n ** BigInt(entry.granularityBits),
    inUse: (entry.flags & bitmapFlags.inUse) !== 0,
    auto: (entry.flags & bitmapFlags.auto) !== 0,
  }));
}

/** The bytes from `offset` on, as many of them as the device has. */
async function readUpTo(device: BlockDevice, offset: number, lengthBytes: number): Promise<Uint8Array> {
  const present = Math.max(0, Math.min(lengthBytes, device.sizeBytes - offset));
  const bytes = new Uint8Array(present);
  if (present > 0) await readPadded(device, offset, bytes);
  return bytes;
}
