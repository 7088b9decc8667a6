/** The disks in the golden vectors, read by the clauses of the mapping, are byte for byte what QEMU read. */
import { cryptMethods } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type ImageWalk, walkImage } from '../src/image-walk.ts';
import { loadVector, sha256, type Vector, vectorNames } from '../src/vector.ts';
import { aesDecryption, luksDecryption } from './decryption.ts';
import { type GuestSources, readGuest } from './guest-content.ts';

const vectors = vectorNames().map(loadVector);
const readable = vectors.filter(({ manifest }) => manifest.guest !== undefined);
const named = (chosen: (name: string) => boolean) =>
  readable
    .filter(({ manifest }) => chosen(manifest.name))
    .map((vector) => [vector.manifest.name, vector] as const);

const groups = {
  compressed: named((name) => /^(zlib|zstd)|compressed/.test(name)),
  extended: named((name) => /extended-l2/.test(name)),
  backed: named((name) => /^backing/.test(name)),
  external: named((name) => /^data-file/.test(name)),
  zeroes: named((name) => /^(zero|discarded)/.test(name)),
};
const special = new Set(Object.values(groups).flatMap((group) => group.map(([name]) => name)));
const aes = named((name) => name.startsWith('aes'));
const luks = named((name) => name.startsWith('luks'));
const others = named((name) => !special.has(name) && !/^(aes|luks)/.test(name));

describe('guest content', () => {
  it.each(others)(
    '[IMG-001, L1E-005, L1E-006, L2E-005, L2E-008, L2E-009] standard clusters: %s',
    (_, vector) => {
      expectGuest(vector);
    },
  );

  it.each(groups.zeroes)('[L2E-006, L2E-010, L2E-012] zero and unallocated clusters: %s', (_, vector) => {
    expectGuest(vector);
  });

  it.each(groups.compressed)(
    '[L2E-002, L2E-003, CMP-001, CMP-002, CMP-003, CMP-004, CMP-005, CMP-006, FEA-004] compressed clusters: %s',
    (_, vector) => {
      expectGuest(vector);
    },
  );

  it.each(groups.extended)(
    '[FEA-005, L2E-001, SUB-001, SUB-002, SUB-003, SUB-004, SUB-005, SUB-006, SUB-007] extended L2 entries: %s',
    (_, vector) => {
      expectGuest(vector);
    },
  );

  it.each(groups.backed)(
    '[L2E-012] what the backing file shows, and zeros behind its end: %s',
    (_, vector) => {
      expectGuest(vector);
    },
  );

  it.each(groups.external)('[FEA-003, L2E-011] clusters in the external data file: %s', (_, vector) => {
    expectGuest(vector);
    const data = [...vector.companions.values()][0] ?? new Uint8Array();
    const walk = walkImage(vector.bytes);
    // Metadata stands in the image file, and nothing else does.
    expect(
      sha256(readGuest(walk, walk.active, walk.header.sizeBytes, { bytes: new Uint8Array(), data })),
    ).toBe(vector.manifest.guest?.sha256);
  });

  it('[FEA-011] is the external data file itself where the bit says so', () => {
    const { manifest, companions } = loadVector('data-file-raw');
    expect(sha256(companions.get('image.data') ?? new Uint8Array())).toBe(manifest.guest?.sha256);
  });

  it.each(luks)('[ENC-001, ENC-003] clusters encrypted with luks: %s', (_, vector) => {
    expectGuest(vector);
  });

  it.each(aes)('[ENC-001, ENC-002] clusters encrypted with aes: %s', (_, vector) => {
    expectGuest(vector);
  });
});

describe('guest content of snapshots', () => {
  const withSnapshots = readable.filter(({ manifest }) => manifest.guestOfSnapshot !== undefined);

  it.each(withSnapshots.map((vector) => [vector.manifest.name, vector] as const))(
    '[SNP-002, SNP-003, SNP-013] %s',
    (_, vector) => {
      const walk = walkImage(vector.bytes);
      const read = walk.snapshots.map(({ id, diskSizeBytes }, index) => {
        const mapping = walk.snapshotMappings[index] ?? walk.active;
        const disk = readGuest(walk, mapping, diskSizeBytes ?? walk.header.sizeBytes, {
          bytes: vector.bytes,
        });
        // QEMU reads a snapshot with the size of the active disk, zeros where the snapshot has ended.
        const padded = new Uint8Array(walk.header.sizeBytes);
        padded.set(disk);
        return [id, sha256(padded)];
      });
      const expected = Object.entries(vector.manifest.guestOfSnapshot ?? {}).map(([id, guest]) => [
        id,
        guest.sha256,
      ]);
      expect(read).toEqual(expected);
    },
  );
});

function expectGuest(vector: Vector): void {
  const walk = walkImage(vector.bytes);
  const guest = readGuest(walk, walk.active, walk.header.sizeBytes, sourcesOf(vector, walk));
  expect(guest.length).toBe(vector.manifest.guest?.sizeBytes);
  expect(sha256(guest)).toBe(vector.manifest.guest?.sha256);
}

function sourcesOf(vector: Vector, walk: ImageWalk): GuestSources {
  const { bytes, companions, manifest } = vector;
  const companion = [...companions][0];
  const role = manifest.files[1]?.role;
  return {
    bytes,
    data: role === 'data' ? companion?.[1] : undefined,
    backing: role === 'backing' ? backingDisk(walk, companion) : undefined,
    decrypt: decryption(walk, vector),
  };
}

/** The disk of a backing file: itself, a part of it that a json: name describes, or that of a qcow2 image. */
function backingDisk({ header }: ImageWalk, companion: [string, Uint8Array] | undefined): Uint8Array {
  const [name, bytes] = companion ?? ['', new Uint8Array()];
  if (name.endsWith('.qcow2')) {
    const walk = walkImage(bytes);
    return readGuest(walk, walk.active, walk.header.sizeBytes, { bytes });
  }
  if (!header.backingFileName?.startsWith('json:')) return bytes;
  const { offset, size } = JSON.parse(header.backingFileName.slice('json:'.length));
  return bytes.subarray(offset, offset + size);
}

function decryption(walk: ImageWalk, { bytes, manifest }: Vector): GuestSources['decrypt'] {
  const { passphrase = '' } = manifest;
  if (walk.header.cryptMethod === cryptMethods.luks) return luksDecryption(walk, bytes, passphrase);
  return walk.header.cryptMethod === cryptMethods.aes ? aesDecryption(passphrase) : undefined;
}
