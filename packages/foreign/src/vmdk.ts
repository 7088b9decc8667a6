/**
 * VMDK, VMware's images: a disk is a row of extents, each in a file: flat ones, or sparse ones. A descriptor, which is a text, names
 * them; or it stands within the only one, which is sparse.
 *
 * The law is VMware's "Virtual Disk Format 5.0". What a descriptor names is opened by the caller's resolver, or not at all.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { FormatError, StateError, UnsupportedFeatureError } from '@qcow2/spec';
import type { DiskMap, ForeignFile, ForeignParts, Place } from './foreign-image.ts';
import { loadSparseHeader, refuseOtherExtents, SparseExtent, sparseMagic } from './internal/sparse-extent.ts';
import {
  decodeDescriptor,
  type ExtentLine,
  extentLines,
  mostDescriptorBytes,
  noParent,
  type VmdkDescriptor,
} from './internal/vmdk-descriptor.ts';

/** What an image says of itself. */
export interface VmdkFacts {
  readonly cid: number;
  readonly parentCid: number;
  /** What it is a difference to, as it stands there. */
  readonly parentName: string | undefined;
  readonly createType: string;
  readonly extents: readonly VmdkExtentFacts[];
}

export interface VmdkExtentFacts {
  readonly sizeBytes: number;
  /** Undefined: the image's own file. */
  readonly path: string | undefined;
  /** Undefined for a flat one. */
  readonly grainBytes: number | undefined;
  readonly isCompressed: boolean;
  /** As the descriptor calls it; undefined for one that holds its descriptor. */
  readonly type: string | undefined;
}

/** Opens an extent's file by the name that stands in a descriptor, or refuses by throwing. */
export type ExtentResolver = (name: string) => ForeignFile | Promise<ForeignFile>;

export interface VmdkOptions {
  /** Not given: an image that names other files is refused with NO_POLICY. */
  readonly resolveExtent?: ExtentResolver | undefined;
  /** A difference to another image opens too, and shows holes where that one would show; for who wants the facts and no bytes. */
  readonly withoutParent?: boolean | undefined;
}

const descriptorTypes = new Set(['monolithicFlat', 'vmfs', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat']);
const document = 'VMware Virtual Disk Format 5.0, The Descriptor';

/** @throws FormatError; NO_POLICY; UNSUPPORTED_FEATURE for other types of images; what the resolver throws */
export function* openVmdk(file: BlockDevice, options: VmdkOptions = {}): Task<ForeignParts> {
  const own = { device: file, path: undefined };
  yield* refuseOtherExtents(file);
  const bytes = new Uint8Array(Math.min(file.sizeBytes, 4));
  yield* wait(file.read(0, bytes));
  const isSparse = bytes.length === 4 && new DataView(bytes.buffer).getUint32(0, true) === sparseMagic;
  return isSparse ? yield* openSparse(own, options) : yield* openByDescriptor(own, options);
}

function* openSparse(own: ForeignFile, options: VmdkOptions): Task<ForeignParts> {
  const header = yield* loadSparseHeader(own.device);
  const { descriptorOffset, descriptorBytes, sizeBytes, grainBytes, isCompressed } = header;
  const descriptor = yield* loadDescriptor(own.device, descriptorOffset, descriptorBytes);
  refuseParent(descriptor, options);
  const extent = { map: new SparseExtent(own, header), sizeBytes, type: undefined, file: own };
  return partsOf([extent], own, {
    ...factsOf(descriptor),
    createType: isCompressed ? 'streamOptimized' : 'monolithicSparse',
    extents: [{ sizeBytes, path: undefined, grainBytes, isCompressed, type: undefined }],
  });
}

function* openByDescriptor(own: ForeignFile, options: VmdkOptions): Task<ForeignParts> {
  const descriptor = yield* loadDescriptor(own.device, 0, own.device.sizeBytes);
  const { createType } = descriptor;
  if (createType === undefined) {
    throw new FormatError('BAD_MAGIC', 'neither a VMDK extent nor a descriptor', {
      hostOffset: 0,
      field: 'createType',
      clause: document,
    });
  }
  if (!descriptorTypes.has(createType)) {
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `VMDK: Unsupported image type '${createType}'`, {
      field: 'createType',
      value: createType,
      clause: document,
    });
  }
  refuseParent(descriptor, options);
  const lines = extentLines(descriptor);
  if (lines.length === 0) {
    throw new FormatError('BAD_FIELD', 'VMDK descriptor: it names no extent', {
      field: 'extent',
      clause: document,
    });
  }
  const extents: OpenExtent[] = [];
  try {
    for (const line of lines) extents.push(yield* openExtent(line, options.resolveExtent));
    return partsOf(extents, own, {
      ...factsOf(descriptor),
      createType,
      extents: extents.map(({ sizeBytes, file, map, type }) => {
        const sparse = map instanceof SparseExtent ? map.header : undefined;
        const isCompressed = sparse?.isCompressed ?? false;
        return { sizeBytes, path: file.path, grainBytes: sparse?.grainBytes, isCompressed, type };
      }),
    });
  } catch (error) {
    for (const { file } of extents) yield* wait(closeFile(file));
    throw error;
  }
}

function closeFile(file: ForeignFile): void | Promise<void> {
  return file.close === undefined ? file.device.close() : file.close();
}

interface OpenExtent {
  readonly map: DiskMap;
  readonly sizeBytes: number;
  readonly type: string | undefined;
  readonly file: ForeignFile;
}

function* openExtent(line: ExtentLine, resolve: ExtentResolver | undefined): Task<OpenExtent> {
  const { name, type, sizeBytes, startBytes } = line;
  if (resolve === undefined) {
    throw new StateError(
      'NO_POLICY',
      'the image names another file, and nothing says whether it may be opened',
      {
        path: name,
      },
    );
  }
  const file = yield* wait(resolve(name));
  try {
    if (type !== 'SPARSE') return { map: new FlatExtent(file, startBytes), sizeBytes, type, file };
    yield* refuseOtherExtents(file.device);
    const header = yield* loadSparseHeader(file.device);
    return { map: new SparseExtent(file, header), sizeBytes: header.sizeBytes, type, file };
  } catch (error) {
    yield* wait(closeFile(file));
    throw error;
  }
}

function* loadDescriptor(file: BlockDevice, hostOffset: number, lengthBytes: number): Task<VmdkDescriptor> {
  const present = Math.max(0, Math.min(lengthBytes, file.sizeBytes - hostOffset, mostDescriptorBytes));
  const bytes = new Uint8Array(present);
  if (present > 0) yield* wait(file.read(hostOffset, bytes));
  return decodeDescriptor(bytes);
}

function refuseParent({ parentCid, parentName }: VmdkDescriptor, { withoutParent }: VmdkOptions): void {
  if (withoutParent === true || (parentCid === noParent && parentName === undefined)) return;
  throw new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    'VMDK: differences to another image are not supported',
    {
      field: 'parentFileNameHint',
      value: parentName ?? '',
      clause: document,
    },
  );
}

function factsOf({ cid, parentCid, parentName }: VmdkDescriptor) {
  return { cid, parentCid, parentName };
}

/** @throws OFFSET_TOO_LARGE */
function partsOf(extents: readonly OpenExtent[], own: ForeignFile, vmdk: VmdkFacts): ForeignParts {
  const map = new ExtentRow(extents);
  if (!Number.isSafeInteger(map.sizeBytes)) {
    throw new FormatError('OFFSET_TOO_LARGE', 'VMDK: the extents are more than 2^53 - 1 bytes', {
      field: 'extent',
      clause: document,
    });
  }
  const others = extents.map(({ file }) => file).filter((file) => file !== own);
  const clusterBytes = vmdk.extents[0]?.grainBytes;
  return { format: 'vmdk', sizeBytes: map.sizeBytes, clusterBytes, map, files: [...others, own], vmdk };
}

class FlatExtent implements DiskMap {
  readonly #file: ForeignFile;
  readonly #startBytes: number;

  constructor(file: ForeignFile, startBytes: number) {
    this.#file = file;
    this.#startBytes = startBytes;
  }

  // biome-ignore lint/correctness/useYield: nothing has to be waited for
  *locate(offset: number, lengthBytes: number): Task<Place> {
    return { kind: 'data', lengthBytes, file: this.#file, hostOffset: this.#startBytes + offset, flat: true };
  }
}

/** Extents, one behind the other. */
class ExtentRow implements DiskMap {
  readonly sizeBytes: number;
  readonly #extents: readonly OpenExtent[];
  /** Where each begins. */
  readonly #starts: readonly number[];

  constructor(extents: readonly OpenExtent[]) {
    let end = 0;
    const starts: number[] = [];
    for (const { sizeBytes } of extents) {
      starts.push(end);
      end += sizeBytes;
    }
    this.sizeBytes = end;
    this.#extents = extents;
    this.#starts = starts;
  }

  *locate(offset: number, lengthBytes: number): Task<Place> {
    const number = this.#starts.findLastIndex((start) => start <= offset);
    const { map, sizeBytes } = this.#extents[number]!;
    const inExtent = offset - this.#starts[number]!;
    return yield* map.locate(inExtent, Math.min(lengthBytes, sizeBytes - inExtent));
  }
}
