/** What an image says about itself, as `qemu-img info` shows it. Nothing here follows a name. */
import {
  decodeBackingFormat,
  decodeExternalDataFile,
  findHeaderExtension,
  type Qcow2Header,
  type Snapshot,
} from '@qcow2/codec';
import {
  autoclearFeatures,
  compatibleFeatures,
  headerExtensionTypes,
  incompatibleFeatures,
} from '@qcow2/spec';

export interface ImageInfo {
  readonly virtualSizeBytes: number;
  readonly clusterBytes: number;
  /** `0.10` for version 2, `1.1` for version 3. */
  readonly compat: '0.10' | '1.1';
  readonly compressionType: 'zlib' | 'zstd' | 'unknown';
  readonly lazyRefcounts: boolean;
  readonly refcountBits: number;
  readonly corrupt: boolean;
  /** Refcounts may be out of date (lazy refcounts after a crash). */
  readonly dirtyFlag: boolean;
  readonly extendedL2: boolean;
  readonly encryption: 'none' | 'aes' | 'luks';
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
  readonly dataFile: string | undefined;
  readonly dataFileRaw: boolean;
  readonly snapshots: readonly Snapshot[];
}

const encryptions = ['none', 'aes', 'luks'] as const;

export function imageInfo(header: Qcow2Header, snapshots: readonly Snapshot[]): ImageInfo {
  const incompatible = (mask: bigint): boolean => (header.incompatibleFeatures & mask) !== 0n;
  const format = findHeaderExtension(header.extensions, headerExtensionTypes.backingFormat);
  const dataFile = findHeaderExtension(header.extensions, headerExtensionTypes.externalDataFile);
  return {
    virtualSizeBytes: header.sizeBytes,
    clusterBytes: 2 ** header.clusterBits,
    compat: header.version === 2 ? '0.10' : '1.1',
    compressionType: (['zlib', 'zstd'] as const)[header.compressionType] ?? 'unknown',
    lazyRefcounts: (header.compatibleFeatures & compatibleFeatures.lazyRefcounts) !== 0n,
    refcountBits: 2 ** header.refcountOrder,
    corrupt: incompatible(incompatibleFeatures.corrupt),
    dirtyFlag: incompatible(incompatibleFeatures.dirty),
    extendedL2: incompatible(incompatibleFeatures.extendedL2),
    encryption: encryptions[header.cryptMethod] ?? 'none',
    backingFile: header.backingFileName,
    backingFormat: format === undefined ? undefined : decodeBackingFormat(format),
    dataFile: dataFile === undefined ? undefined : decodeExternalDataFile(dataFile),
    dataFileRaw: (header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n,
    snapshots,
  };
}
