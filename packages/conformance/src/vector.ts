/**
 * Golden vectors: images that the real qemu-img made, with what it said about them. They stand in
 * `vectors/`: a manifest `NAME.json`, and `NAME.bin`, the deflated non-zero runs of the vector's files.
 * How each was made stands in its manifest; all of them, with their sums, in `vectors/README.md`.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { FormatError, StorageError } from '@qcow2/spec';
import { expandRuns, type Run } from './sparse.ts';

/** `image` is the qcow2 file; the others are what it names. */
export type VectorRole = 'image' | 'backing' | 'data';

export interface VectorFile {
  /** The name under which the image knows the file. */
  readonly name: string;
  readonly role: VectorRole;
  readonly sizeBytes: number;
  /** SHA-256 of the whole file, zeros included. */
  readonly sha256: string;
  readonly runs: readonly Run[];
}

export interface GuestContent {
  readonly sizeBytes: number;
  /** SHA-256 of the disk that the guest sees, backing file included. */
  readonly sha256: string;
}

/** `qemu-img info --output=json`, without the sizes that the file system decides. */
export interface QemuInfo {
  readonly 'virtual-size': number;
  readonly 'cluster-size': number;
  readonly 'dirty-flag': boolean;
  readonly encrypted?: boolean;
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly snapshots?: readonly QemuSnapshot[];
  readonly 'format-specific': { readonly type: 'qcow2'; readonly data: QemuFormatInfo };
}

export interface QemuSnapshot {
  readonly id: string;
  readonly name: string;
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
  readonly 'vm-clock-sec': number;
  readonly 'vm-clock-nsec': number;
  readonly icount?: number;
}

export interface QemuBitmap {
  readonly name: string;
  readonly granularity: number;
  readonly flags: readonly ('in-use' | 'auto')[];
}

export interface QemuFormatInfo {
  readonly compat: '0.10' | '1.1';
  readonly 'compression-type'?: 'zlib' | 'zstd';
  readonly 'lazy-refcounts'?: boolean;
  readonly 'refcount-bits': number;
  readonly corrupt?: boolean;
  readonly 'extended-l2'?: boolean;
  readonly 'data-file'?: string;
  readonly 'data-file-raw'?: boolean;
  readonly bitmaps?: readonly QemuBitmap[];
  readonly encrypt?: { readonly format: 'aes' | 'luks'; readonly 'payload-offset'?: number };
}

/** One line of `qemu-img map --output=json`; `depth` 0 is the image itself, `offset` the host offset. */
export interface QemuMapExtent {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly offset?: number;
}

/** `qemu-img check --output=json`, and the exit code (0 whole, 2 corrupt, 3 leaks). */
export interface QemuCheck {
  readonly exitCode: number;
  readonly 'image-end-offset': number;
  readonly 'total-clusters': number;
  readonly 'allocated-clusters'?: number;
  readonly 'compressed-clusters'?: number;
  readonly 'check-errors': number;
  readonly corruptions?: number;
  readonly leaks?: number;
}

export interface VectorManifest {
  readonly name: string;
  /** Which part of the format the vector is there for. */
  readonly why: string;
  /** `qemu-img --version`, first line. */
  readonly madeBy: string;
  /** The commands, in order, as a shell would take them; lines that begin with `#` are steps of ours. */
  readonly commands: readonly string[];
  readonly passphrase?: string;
  /** Of NAME.bin: its sum, and its length before deflation. */
  readonly payload: { readonly sha256: string; readonly inflatedBytes: number };
  readonly files: readonly VectorFile[];
  /** What the guest reads; absent where the disk is too large to be worth reading. */
  readonly guest?: GuestContent;
  /** What `qemu-img convert -l` reads of each snapshot, by id: with the size of the active disk, whatever the snapshot's own. */
  readonly guestOfSnapshot?: Readonly<Record<string, GuestContent>>;
  readonly qemu: {
    readonly info: QemuInfo;
    readonly map: readonly QemuMapExtent[];
    readonly check: QemuCheck;
  };
}

export interface Vector {
  readonly manifest: VectorManifest;
  /** The qcow2 image, whole. The caller owns it: every call of `loadVector` makes it anew. */
  readonly bytes: Uint8Array;
  /** Backing and data files by the name under which the image knows them. */
  readonly companions: ReadonlyMap<string, Uint8Array>;
}

/** The folder that holds the vectors. */
export const vectorsFolder = join(import.meta.dirname, '..', 'vectors');

/** The names of all vectors, sorted. */
export function vectorNames(): string[] {
  return readdirSync(vectorsFolder)
    .filter((name) => name.endsWith('.json'))
    .map((name) => name.slice(0, -'.json'.length))
    .sort();
}

/** @throws NOT_FOUND where there is no such vector */
export function loadManifest(name: string): VectorManifest {
  return JSON.parse(readVectorFile(`${name}.json`).toString('utf8')) as VectorManifest;
}

/**
 * Load a vector and verify its sums.
 * @throws NOT_FOUND where there is no such vector; BAD_CHECKSUM where its bytes are not those that QEMU made
 */
export function loadVector(name: string): Vector {
  const manifest = loadManifest(name);
  const deflated = readVectorFile(`${name}.bin`);
  verify(deflated, manifest.payload.sha256, `${name}.bin`);
  const packed = inflateSync(deflated, { maxOutputLength: Math.max(1, manifest.payload.inflatedBytes) });
  const companions = new Map<string, Uint8Array>();
  let image: Uint8Array | undefined;
  let at = 0;
  for (const file of manifest.files) {
    const packedBytes = file.runs.reduce((sum, [, length]) => sum + length, 0);
    const bytes = expandRuns(file.sizeBytes, file.runs, packed.subarray(at, at + packedBytes));
    at += packedBytes;
    verify(bytes, file.sha256, `${name}: ${file.name}`);
    if (file.role === 'image') image = bytes;
    else companions.set(file.name, bytes);
  }
  if (image === undefined) throw new StorageError('NOT_FOUND', 'the vector has no image', { path: name });
  return { manifest, bytes: image, companions };
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function verify(bytes: Uint8Array, expected: string, path: string): void {
  if (sha256(bytes) === expected) return;
  throw new FormatError('BAD_CHECKSUM', 'the bytes are not those that QEMU made', { path });
}

function readVectorFile(name: string): Buffer {
  const path = join(vectorsFolder, name);
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new StorageError('NOT_FOUND', 'there is no such golden vector', { path: name }, cause);
  }
}
