/**
 * Images that claim much: data that becomes more than a cluster, frames and tables of gigabytes, metadata on metadata. Each is
 * refused by name, and nobody asks for the memory that it claims: array buffers are counted while it is opened, read, checked and written to.
 */
import { deflateRawSync } from 'node:zlib';
import { MemoryDevice } from '@qcow2/block-device';
import {
  decodeEncryptionHeaderPointer,
  decodeHeader,
  findHeaderExtension,
  writeCompressedEntry,
} from '@qcow2/codec';
import { nodeCompression } from '@qcow2/compression';
import { type ImageWalk, loadVector, walkImage } from '@qcow2/conformance';
import { luksPassphrase } from '@qcow2/crypto';
import { checkImage, type OpenOptions, openImage } from '@qcow2/driver';
import { headerExtensionTypes, Qcow2Error } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { AllocationGuard } from '../../src/allocation-guard.ts';

/** In all of a run: a few tables of the small images, and nothing of what they claim. */
const mostBytes = 3 << 20;
const copied = 1n << 63n;

interface Claim {
  readonly name: string;
  readonly vector: string;
  /** Returns the image as it is to be: this one, or a longer one. */
  readonly spoil: (bytes: Uint8Array, view: DataView, walk: ImageWalk) => Uint8Array;
  readonly code: string;
  readonly options?: OpenOptions;
}

/** The first L2 entry that leads to compressed data leads to this, behind the end of the file. */
function compressedAs(
  bytes: Uint8Array,
  { clusterBytes, header, active }: ImageWalk,
  data: Uint8Array,
): Uint8Array {
  const end = Math.ceil(bytes.length / clusterBytes) * clusterBytes;
  const longer = new Uint8Array(end + 2 * clusterBytes);
  longer.set(bytes);
  longer.set(data, end);
  const [table] = active.l2.values();
  for (let at = table!.at; at < table!.at + clusterBytes; at += 8) {
    if ((bytes[at]! & 0x40) === 0) continue;
    writeCompressedEntry(new DataView(longer.buffer), at, header.clusterBits, end, data.length);
    return longer;
  }
  throw new TypeError('the vector has no compressed cluster');
}

const zstdHead = [0x28, 0xb5, 0x2f, 0xfd];
/** Content of 16 MiB in 16 KiB, of which a cluster is 4 KiB. */
const bomb = deflateRawSync(new Uint8Array(1 << 22), { level: 9 }).subarray(0, 4096);
const noded = { compression: nodeCompression() };

function onto(where: (walk: ImageWalk) => number): Claim['spoil'] {
  return (bytes, view, walk) => {
    const [table] = walk.active.l2.values();
    view.setBigUint64(table!.at, copied | BigInt(where(walk)));
    return bytes;
  };
}

/** Bytes 8 to 15 of the bitmaps extension's data: how long the directory is. */
function directoryOf(lengthBytes: bigint): Claim['spoil'] {
  return (bytes, view, { header }) => {
    const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps)!;
    const at = Buffer.from(bytes).indexOf(data);
    view.setBigUint64(at + 8, lengthBytes);
    return bytes;
  };
}

const claims: readonly Claim[] = [
  {
    name: '[CMP-008] deflate that becomes more than a cluster',
    vector: 'zlib-4k',
    spoil: (bytes, _view, walk) => compressedAs(bytes, walk, bomb),
    code: 'COMPRESSED_DAMAGED',
  },
  {
    name: '[CMP-008] the same, by the zlib of Node',
    vector: 'zlib-4k',
    spoil: (bytes, _view, walk) => compressedAs(bytes, walk, bomb),
    code: 'COMPRESSED_DAMAGED',
    options: noded,
  },
  {
    name: '[CMP-009] a zstd frame that claims four gigabytes',
    vector: 'zstd-4k',
    spoil: (bytes, _view, walk) =>
      compressedAs(bytes, walk, Uint8Array.of(...zstdHead, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0)),
    code: 'COMPRESSED_DAMAGED',
    options: noded,
  },
  {
    name: '[LIM-021] a zstd frame with a window of terabytes',
    vector: 'zstd-4k',
    spoil: (bytes, _view, walk) => compressedAs(bytes, walk, Uint8Array.of(...zstdHead, 0, 0xff, 1, 0, 0)),
    code: 'LIMIT_EXCEEDED',
    options: noded,
  },
  ...(['l1', 'refcountTable'] as const).map(
    (table): Claim => ({
      name: `[LIM-019] a guest cluster on the ${table}`,
      vector: 'v3-4k',
      spoil: onto((walk) => (table === 'l1' ? walk.active.l1.at : walk.refcountTable.at)),
      code: 'OVERLAP',
    }),
  ),
  {
    name: '[LIM-019] a guest cluster on the header',
    vector: 'v3-4k',
    // Offset 0 says that there is none: the second sector of the header's cluster would be off a boundary.
    spoil: (bytes, view, { header }) => {
      view.setBigUint64(header.l1Offset, copied | BigInt(header.l1Offset));
      return bytes;
    },
    code: 'OVERLAP',
  },
  {
    name: '[BMX-004] a bitmap directory of a terabyte',
    vector: 'bitmap-and-snapshot',
    spoil: directoryOf(1n << 40n),
    code: 'LIMIT_EXCEEDED',
  },
  {
    name: '[LIM-004] a refcount table of terabytes',
    vector: 'v3-4k',
    spoil: (bytes, view) => {
      view.setUint32(56, 0x7fff_ffff);
      return bytes;
    },
    code: 'LIMIT_EXCEEDED',
  },
  {
    name: '[LIM-003] an L1 table of sixteen gigabytes',
    vector: 'v3-4k',
    spoil: (bytes, view) => {
      view.setUint32(36, 0x7fff_ffff);
      return bytes;
    },
    code: 'LIMIT_EXCEEDED',
  },
  {
    name: '[LIM-006] four thousand million snapshots',
    vector: 'snapshot-many',
    spoil: (bytes, view) => {
      view.setUint32(60, 0xffff_ffff);
      return bytes;
    },
    code: 'LIMIT_EXCEEDED',
  },
];

/** Codes of everything that asking for all of an image was answered with, and what it asked for in array buffers. */
async function ask(bytes: Uint8Array, options: OpenOptions): Promise<{ codes: string[]; allocated: number }> {
  const device = MemoryDevice.fromBytes(bytes);
  const guard = new AllocationGuard();
  const codes: string[] = [];
  const attempt = async (body: () => unknown): Promise<void> => {
    try {
      await body();
    } catch (error) {
      codes.push(error instanceof Qcow2Error ? error.code : String(error));
    }
  };
  const buffer = new Uint8Array(4096);
  guard.install();
  guard.arm({ oneBytes: mostBytes, allBytes: mostBytes });
  try {
    await attempt(async () => {
      const image = await openImage(device, { ...options, readOnly: true, backing: 'none' });
      for (let at = 0; at < Math.min(image.sizeBytes, 65536); at += buffer.length) {
        await attempt(() =>
          image.read(at, buffer.subarray(0, Math.min(buffer.length, image.sizeBytes - at))),
        );
      }
      await attempt(() => image.bitmaps());
      image.abandon();
    });
    await attempt(() => checkImage(device));
    await attempt(async () => {
      const image = await openImage(device, { ...options, backing: 'none' });
      await attempt(() => image.write(0, buffer.subarray(0, 512)));
      image.abandon();
    });
  } finally {
    guard.uninstall();
  }
  return { codes, allocated: guard.exceeded ? Number.POSITIVE_INFINITY : guard.allocatedBytes };
}

describe('what claims much is refused, and nothing is taken for it', () => {
  it.each(claims)('$name', async ({ vector, spoil, code, options = {} }) => {
    const { bytes } = loadVector(vector);
    const image = bytes.slice();
    const spoiled = spoil(image, new DataView(image.buffer), walkImage(bytes));
    const sound = await ask(bytes, options);
    expect(sound.codes).toEqual([]);
    const { codes, allocated } = await ask(spoiled, options);
    expect(codes).toContain(code);
    expect(codes).not.toContain('ABORTED');
    expect(allocated).toBeLessThan(mostBytes);
  });

  it('[FDE-003] key material of gigabytes: refused before anything is derived', async () => {
    const { bytes, manifest } = loadVector('luks');
    const { extensions } = decodeHeader(bytes.subarray(0, 65536));
    const pointer = findHeaderExtension(extensions, headerExtensionTypes.fullDiskEncryption)!;
    const { headerOffset } = decodeEncryptionHeaderPointer(pointer);
    const passphrase = new TextEncoder().encode(manifest.passphrase ?? '');
    // Of the first key slot: where its material begins, and how many stripes it has; of the header: the key's length.
    for (const at of [208 + 44, 108]) {
      const spoiled = bytes.slice();
      new DataView(spoiled.buffer).setUint32(headerOffset + at, 0x7fff_ffff);
      const { codes, allocated } = await ask(spoiled, { encryption: luksPassphrase(passphrase) });
      expect(codes.length, `${at}`).toBeGreaterThan(0);
      expect(codes, `${at}`).not.toContain('ABORTED');
      expect(allocated, `${at}`).toBeLessThan(mostBytes);
    }
  });
});
