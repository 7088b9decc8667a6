/**
 * What stands in front of a VHDX disk: two headers of which the newer sound one counts, two region tables, and the metadata that the regions
 * lead to. Each is checked by its CRC-32C where it has one. The law is Microsoft's [MS-VHDX].
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { crc32c } from '@qcow2/codec';
import { FormatError, UnsupportedFeatureError } from '@qcow2/spec';
import { loadStructure, Structure } from './structure.ts';
import { guidBytes, guidText } from './vhdx-guid.ts';

const kibibyte = 1024;
export const mebibyte = 1024 * kibibyte;
const identifierSignature = 'vhdxfile';
const shape = (name: string, document: string) => ({
  name: `VHDX ${name}`,
  document: `MS-VHDX ${document}`,
  littleEndian: true,
});
const identifier = shape('file type identifier', '2.2.1');
const header = shape('header', '2.2.2');
const logEntry = shape('log', '2.3');
const regionTable = shape('region table', '2.2.3');
const metadataTable = shape('metadata table', '2.6.1');
const metadataItem = shape('metadata item', '2.6.2');

const headerPlaces = [64 * kibibyte, 128 * kibibyte] as const;
const headerBytes = 4 * kibibyte;
const regionPlaces = [192 * kibibyte, 256 * kibibyte] as const;
const tableBytes = 64 * kibibyte;
const mostTableEntries = 2047;
const logSectorBytes = 4 * kibibyte;
/** Hyper-V and QEMU make logs of 1 MiB. */
const mostLogBytes = 64 * mebibyte;

export interface HostRange {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

export interface VhdxHeader {
  /** Undefined: the log is empty. */
  readonly logGuid: string | undefined;
  readonly log: HostRange;
}

/** @throws BAD_MAGIC; BAD_CHECKSUM where neither header is sound */
export function* loadHeader(file: BlockDevice): Task<VhdxHeader> {
  const start = yield* loadStructure(file, 0, identifierSignature.length, identifier);
  if (start.ascii(0, identifierSignature.length) !== identifierSignature) {
    throw start.bad('BAD_MAGIC', 'Signature', 0, start.ascii(0, 8), 'not the signature');
  }
  const [first, second] = [
    yield* loadSound(file, headerPlaces[0], headerBytes, 'head', header),
    yield* loadSound(file, headerPlaces[1], headerBytes, 'head', header),
  ];
  const isServed = (at: Structure | undefined): at is Structure => at !== undefined && at.u16(66) === 1;
  const sound = [first, second].filter(isServed);
  const newest = sound.reduce<Structure | undefined>(
    (best, at) => (best === undefined || at.big64(8) > best.big64(8) ? at : best),
    undefined,
  );
  if (newest === undefined) throw noSound(header, headerPlaces[0]);
  return decodeHeader(newest, file);
}

function decodeHeader(at: Structure, file: BlockDevice): VhdxHeader {
  const isEmpty = at.isZero(48, guidBytes);
  const lengthBytes = at.u32(68);
  const hostOffset = at.u64('LogOffset', 72);
  if (at.u16(64) !== 0) throw at.unserved('this version of the log is', 'LogVersion', 64, at.u16(64));
  if (hostOffset % mebibyte !== 0 || hostOffset < mebibyte) {
    throw at.bad('BAD_ALIGNMENT', 'LogOffset', 72, hostOffset, 'not a place of a log');
  }
  if (lengthBytes % mebibyte !== 0) {
    throw at.bad('BAD_ALIGNMENT', 'LogLength', 68, lengthBytes, 'not a length of a log');
  }
  if (lengthBytes > mostLogBytes)
    throw at.bad('LIMIT_EXCEEDED', 'LogLength', 68, lengthBytes, 'a log too long');
  if (!isEmpty && lengthBytes > file.sizeBytes - hostOffset) {
    throw at.bad('TRUNCATED', 'LogOffset', 72, hostOffset, 'the file ends before the log does');
  }
  return {
    logGuid: isEmpty ? undefined : guidText(at.bytes.subarray(48, 48 + guidBytes)),
    log: { hostOffset, lengthBytes },
  };
}

/** A structure with its checksum, which stands at 4; undefined where it is not sound. */
function* loadSound(
  file: BlockDevice,
  hostOffset: number,
  lengthBytes: number,
  signature: string,
  shapeOf: typeof header,
): Task<Structure | undefined> {
  const at = yield* loadStructure(file, hostOffset, lengthBytes, shapeOf);
  return at.ascii(0, 4) === signature && isSummedUp(at) ? at : undefined;
}

function isSummedUp(at: Structure): boolean {
  const stored = at.u32(4);
  const copy = at.bytes.slice();
  copy.fill(0, 4, 8);
  return crc32c(copy) === stored;
}

function noSound({ name, document }: typeof header, hostOffset: number): FormatError {
  const context = { hostOffset, field: 'Checksum', clause: document };
  return new FormatError('BAD_CHECKSUM', `${name}: neither of the two is sound`, context);
}

/**
 * Whether the log holds an entry that is to be replayed: one of the header's log, with a sound checksum.
 * The whole log is looked through, a sector at a time.
 */
export function* hasLiveLog(file: BlockDevice, { logGuid, log }: VhdxHeader): Task<boolean> {
  if (logGuid === undefined) return false;
  for (let at = 0; at < log.lengthBytes; at += logSectorBytes) {
    const first = yield* loadStructure(file, log.hostOffset + at, logSectorBytes, logEntry);
    if (first.ascii(0, 4) !== 'loge' || guidText(first.bytes.subarray(32, 32 + guidBytes)) !== logGuid)
      continue;
    const lengthBytes = first.u32(8);
    const isLength = lengthBytes > 0 && lengthBytes % logSectorBytes === 0 && lengthBytes <= log.lengthBytes;
    if (isLength && isSummedUp(yield* loadLogEntry(file, log, at, lengthBytes))) return true;
  }
  return false;
}

/** An entry goes on at the start of the log when its end is reached. */
function* loadLogEntry(file: BlockDevice, log: HostRange, at: number, lengthBytes: number): Task<Structure> {
  const bytes = new Uint8Array(lengthBytes);
  const untilEnd = Math.min(lengthBytes, log.lengthBytes - at);
  yield* wait(file.read(log.hostOffset + at, bytes.subarray(0, untilEnd)));
  if (untilEnd < lengthBytes) yield* wait(file.read(log.hostOffset, bytes.subarray(untilEnd)));
  return new Structure(bytes, log.hostOffset + at, logEntry);
}

const regionGuids = {
  blockTable: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
} as const;

export interface VhdxRegions {
  readonly blockTable: HostRange;
  readonly metadata: HostRange;
}

/** @throws FormatError; UNSUPPORTED_FEATURE for a region that is not known and is required */
export function* loadRegions(file: BlockDevice): Task<VhdxRegions> {
  const sound =
    (yield* loadSound(file, regionPlaces[0], tableBytes, 'regi', regionTable)) ??
    (yield* loadSound(file, regionPlaces[1], tableBytes, 'regi', regionTable));
  if (sound === undefined) throw noSound(regionTable, regionPlaces[0]);
  const count = sound.u32(8);
  if (count > mostTableEntries) throw sound.bad('BAD_FIELD', 'EntryCount', 8, count, 'too many entries');
  const found = new Map<string, HostRange>();
  for (let at = 16; at < 16 + count * 32; at += 32) {
    const guid = guidText(sound.bytes.subarray(at, at + guidBytes));
    const isKnown = guid === regionGuids.blockTable || guid === regionGuids.metadata;
    if (!isKnown) {
      if ((sound.u32(at + 28) & 1) !== 0)
        throw sound.unserved('a region is required that is', 'Guid', at, guid);
      continue;
    }
    if (found.has(guid)) throw sound.bad('BAD_FIELD', 'Guid', at, guid, 'a region stands there twice');
    const hostOffset = sound.u64('FileOffset', at + 16);
    const lengthBytes = sound.u32(at + 24);
    if (hostOffset % mebibyte !== 0 || hostOffset < mebibyte || lengthBytes % mebibyte !== 0) {
      throw sound.bad('BAD_ALIGNMENT', 'FileOffset', at + 16, hostOffset, 'not a place of a region');
    }
    found.set(guid, { hostOffset, lengthBytes });
  }
  const region = (guid: string): HostRange => {
    const range = found.get(guid);
    if (range !== undefined) return range;
    throw sound.bad('BAD_FIELD', 'Guid', 16, guid, 'a region is missing');
  };
  return { blockTable: region(regionGuids.blockTable), metadata: region(regionGuids.metadata) };
}

/** @throws OVERLAP */
export function refuseOverlaps(ranges: readonly HostRange[]): void {
  const sorted = ranges.filter(({ lengthBytes }) => lengthBytes > 0);
  sorted.sort((one, other) => one.hostOffset - other.hostOffset);
  for (const [i, { hostOffset }] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before === undefined || before.hostOffset + before.lengthBytes <= hostOffset) continue;
    throw new FormatError('OVERLAP', 'VHDX: two regions lie in one another', {
      hostOffset,
      field: 'FileOffset',
      clause: regionTable.document,
    });
  }
}

const itemGuids = {
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  diskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  logicalSector: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
} as const;
/** Known, and of no use to who only reads: the disk's id, the physical sector. */
const otherItems = new Set(['beca12ab-b2e6-4523-93ef-c309e000c746', 'cda348c7-445d-4471-9cc9-e9885251c556']);
const parentLocator = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c';
const requiredBit = 4;

const blockLimits = { least: mebibyte, most: 256 * mebibyte } as const;
const mostDiskBytes = 2 ** 46;

export interface VhdxDisk {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly sectorBytes: number;
}

/** @throws FormatError; UNSUPPORTED_FEATURE for differencing images, and for an item that is not known and is required */
export function* loadMetadata(file: BlockDevice, region: HostRange): Task<VhdxDisk> {
  const at = yield* loadStructure(file, region.hostOffset, tableBytes, metadataTable);
  if (at.ascii(0, 8) !== 'metadata') {
    throw at.bad('BAD_MAGIC', 'Signature', 0, at.ascii(0, 8), 'not the signature of the table');
  }
  const items = itemPlaces(at, region);
  const load = function* (guid: string, lengthBytes: number, field: string): Task<Structure> {
    const place = items.get(guid);
    if (place?.lengthBytes === lengthBytes) {
      return yield* loadStructure(file, place.hostOffset, lengthBytes, metadataItem);
    }
    throw at.bad(
      'BAD_FIELD',
      field,
      32,
      place?.lengthBytes ?? 0,
      'an item is missing, or has another length',
    );
  };
  const parameters = yield* load(itemGuids.fileParameters, 8, 'File Parameters');
  if ((parameters.u32(4) & 2) !== 0) throw differencing();
  const blockBytes = parameters.u32(0);
  const isBlock = blockBytes >= blockLimits.least && blockBytes <= blockLimits.most;
  if (!isBlock || !Number.isInteger(Math.log2(blockBytes))) {
    throw parameters.bad('BAD_FIELD', 'BlockSize', 0, blockBytes, 'not a size of blocks');
  }
  const sector = yield* load(itemGuids.logicalSector, 4, 'Logical Sector Size');
  const sectorBytes = sector.u32(0);
  if (sectorBytes !== 512 && sectorBytes !== 4096) {
    throw sector.bad('BAD_FIELD', 'LogicalSectorSize', 0, sectorBytes, 'not a size of sectors');
  }
  const disk = yield* load(itemGuids.diskSize, 8, 'Virtual Disk Size');
  const sizeBytes = disk.u64('VirtualDiskSize', 0);
  if (sizeBytes > mostDiskBytes || sizeBytes % sectorBytes !== 0) {
    throw disk.bad('BAD_FIELD', 'VirtualDiskSize', 0, sizeBytes, 'not a size of disks');
  }
  return { sizeBytes, blockBytes, sectorBytes };
}

function itemPlaces(at: Structure, region: HostRange): Map<string, HostRange> {
  const count = at.u16(10);
  if (count > mostTableEntries) throw at.bad('BAD_FIELD', 'EntryCount', 10, count, 'too many entries');
  const known = new Set<string>(Object.values(itemGuids));
  const items = new Map<string, HostRange>();
  for (let entry = 32; entry < 32 + count * 32; entry += 32) {
    const guid = guidText(at.bytes.subarray(entry, entry + guidBytes));
    if (guid === parentLocator) throw differencing();
    if (!known.has(guid)) {
      const isRequired = (at.u32(entry + 24) & requiredBit) !== 0 && !otherItems.has(guid);
      if (isRequired) throw at.unserved('a metadata item is required that is', 'ItemId', entry, guid);
      continue;
    }
    if (items.has(guid)) throw at.bad('BAD_FIELD', 'ItemId', entry, guid, 'an item stands there twice');
    const offset = at.u32(entry + 16);
    const lengthBytes = at.u32(entry + 20);
    if (offset < tableBytes || lengthBytes > region.lengthBytes - offset) {
      throw at.bad('BAD_FIELD', 'Offset', entry + 16, offset, 'an item does not lie in the region');
    }
    items.set(guid, { hostOffset: region.hostOffset + offset, lengthBytes });
  }
  return items;
}

function differencing(): UnsupportedFeatureError {
  return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'VHDX: differencing images are not supported', {
    field: 'HasParent',
    clause: metadataItem.document,
  });
}
