/** Encrypted images: what stands in the file, what stands in the log, what is refused; with a cipher that is a toy. */
import { MemoryDevice, type RecordedWrite, RecordingDevice } from '@qcow2/block-device';
import { encodeHeader } from '@qcow2/codec';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, probeImage } from '../src/index.ts';
import { appendedRecords, appendRecord } from './support/journal-records.ts';
import { random } from './support/random.ts';
import {
  createAesImage,
  toyAes,
  toyCipher,
  toyHeaderBytes,
  toyKinds,
  toyLuks,
} from './support/toy-encryption.ts';

const clusterBytes = 4096;
const sizeBytes = 2 ** 20;
const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const kinds = Object.entries(toyKinds);
/** Not to be found by chance, and not to be told from noise by its bytes alone. */
const marker = random(11).bytes(512);

function contains(bytes: Uint8Array, wanted: Uint8Array): boolean {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).includes(wanted.subarray(0, 16));
}

describe.each(kinds)('%s', (kind, make) => {
  it.each([
    ['journal', { journal }],
    ['ordered', { journal: false }],
    ['lazy', { journal: false, lazyRefcounts: true }],
    ['draft-2013', { journal: { ...journal, profile: 'draft-2013' } }],
  ] as const)(
    '[ENC-001, JRN-COMMIT-012] nothing that the guest wrote is written in the clear: %s',
    async (_, how) => {
      const memory = new MemoryDevice();
      const { encryption, create } = make();
      await create(memory, { sizeBytes, clusterBytes, ...how });
      const device = new RecordingDevice(memory);
      const image = await openImage(device, { encryption });
      const parts = [0, 512, 4096 + 1024, 70_000, 70_000 - 512 * 8, 300_000];
      for (const at of parts) await image.write(at, marker);
      await image.flush();
      await image.write(
        500_000,
        new Uint8Array(64 * 1024).map((__, at) => marker[at % 512]!),
      );
      await image.flush();
      for (const at of parts) await image.write(at, marker);
      await image.quiesce();
      const into = new Uint8Array(512);
      for (const at of parts) {
        await image.read(at, into);
        expect(into).toEqual(marker);
      }
      const writes = device.log.filter((operation): operation is RecordedWrite => operation.kind === 'write');
      expect(writes.length).toBeGreaterThan(10);
      expect(writes.filter(({ bytes }) => contains(bytes, marker))).toEqual([]);
      await image.close();
    },
  );

  it('[JRN-COMMIT-012] a record has cipher text by numbers that no cluster has; replay has the guest’s bytes', async () => {
    const memory = new MemoryDevice();
    const { encryption, create } = make();
    await create(memory, { sizeBytes, clusterBytes, journal });
    const device = new RecordingDevice(memory);
    const image = await openImage(device, { encryption });
    await image.write(3 * clusterBytes + 512, marker);
    await image.flush();
    image.abandon();
    const logged = appendedRecords(device.log).flatMap(({ record }) =>
      record.descriptors.flatMap((descriptor) =>
        descriptor.type === 'guest-write'
          ? [
              {
                at: descriptor.guestOffset,
                bytes: record.payload.slice(descriptor.payloadOffset, descriptor.payloadOffset + 512),
              },
            ]
          : [],
      ),
    );
    expect(logged.map(({ at }) => at)).toEqual([3 * clusterBytes + 512]);
    const bytes = logged[0]!.bytes;
    expect(contains(bytes, marker)).toBe(false);
    toyCipher(true).decrypt(bytes, 2 ** 52 + (3 * clusterBytes + 512) / 512);
    expect(bytes).toEqual(marker);
    for (const readOnly of [true, false]) {
      const again = await openImage(memory.clone(), { encryption, readOnly });
      const into = new Uint8Array(512);
      await again.read(3 * clusterBytes + 512, into);
      expect(into).toEqual(marker);
      again.abandon();
    }
  });

  it('[ENC-005] what nobody has written shows zeros, around a write and where metadata was preallocated', async () => {
    for (const how of [{ journal }, { journal: false }, { journal: false, lazyRefcounts: true }] as const) {
      const memory = new MemoryDevice();
      const { encryption, create } = make();
      const preallocation = kind === 'luks' ? 'metadata' : 'off';
      await create(memory, { sizeBytes, clusterBytes, preallocation, ...how });
      const image = await openImage(memory, { encryption });
      await image.write(10 * clusterBytes + 100, marker.subarray(0, 50));
      await image.quiesce();
      const bytes = new Uint8Array(sizeBytes);
      await image.read(0, bytes);
      const expected = new Uint8Array(sizeBytes);
      expected.set(marker.subarray(0, 50), 10 * clusterBytes + 100);
      expect(Buffer.compare(bytes, expected)).toBe(0);
      await image.quiesce();
      image.abandon();
      expect((await checkImage(memory)).findings).toEqual([]);
    }
  });

  it('[ENC-006] without a secret it can be looked at and checked, and neither read nor written', async () => {
    const memory = new MemoryDevice();
    const { encryption, create } = make();
    await create(memory, { sizeBytes, clusterBytes, journal });
    const image = await openImage(memory, { encryption });
    await image.write(0, marker);
    await image.flush();
    image.abandon();
    const before = memory.clone();
    const probe = await probeImage(memory);
    expect(probe.info().encryption).toBe(kind);
    const refused = { code: 'NO_SECRET' };
    await expect(async () => probe.read(0, new Uint8Array(512))).rejects.toMatchObject(refused);
    await expect(async () => probe.extents(0, 512)).rejects.toMatchObject(refused);
    expect((await checkImage(memory)).findings).toEqual([]);
    await expect(openImage(memory)).rejects.toMatchObject(refused);
    const [now, then] = [memory, before].map((one) => {
      const bytes = new Uint8Array(one.sizeBytes);
      one.read(0, bytes);
      return bytes;
    });
    expect(now).toEqual(then);
  });

  it('what opens another kind of image is refused', async () => {
    const memory = new MemoryDevice();
    await make().create(memory, { sizeBytes, clusterBytes });
    const other = kind === 'luks' ? toyAes() : toyLuks();
    const refused = { code: 'INVALID_ARGUMENT', context: { field: 'cryptMethod' } };
    await expect(openImage(memory, { encryption: other })).rejects.toMatchObject(refused);
    const plain = new MemoryDevice();
    await createImage(plain, { sizeBytes });
    await expect(openImage(plain, { encryption: other })).rejects.toMatchObject(refused);
  });

  it('[JRN-DESC-031, JRN-COPY-011] a log that changes the encryption, or copies, is refused', async () => {
    const memory = new MemoryDevice();
    const { encryption, create } = make();
    await create(memory, { sizeBytes, clusterBytes, journal });
    const image = await openImage(memory, { encryption });
    await image.write(0, new Uint8Array(clusterBytes).fill(1));
    await image.flush();
    const area = image.journalStatus()!;
    image.abandon();
    const clauseAfter = async (...descriptors: Parameters<typeof appendRecord>[2]) => {
      const copy = memory.clone();
      await appendRecord(copy, area, descriptors);
      const clauses: unknown[] = [];
      for (const readOnly of [true, false]) {
        const error = await openImage(copy, { encryption, readOnly }).catch((caught: unknown) => caught);
        clauses.push((error as { context?: { clause?: string } }).context?.clause);
      }
      return clauses;
    };
    const header = new Uint8Array(clusterBytes);
    await memory.read(0, header);
    const pointer = Buffer.from(header).indexOf(Uint8Array.of(0x05, 0x37, 0xbe, 0x77));
    // The last byte of the length, or the crypt method.
    const [at, bytes] = kind === 'luks' ? [pointer + 23, Uint8Array.of(1)] : [32, new Uint8Array(4)];
    const change = { type: 'inline-write', hostOffset: hostOffset(at), bytes } as const;
    expect(await clauseAfter(change)).toEqual(['JRN-DESC-031', 'JRN-DESC-031']);
    const end = area.hostOffset;
    const copy = {
      type: 'copy',
      targetHostOffset: hostOffset(end - 512),
      sourceHostOffset: hostOffset(end - 1024),
      lengthBytes: 512,
    } as const;
    expect(await clauseAfter(copy)).toEqual(['JRN-COPY-011', 'JRN-COPY-011']);
  });
});

describe('sectors have numbers', () => {
  it('[ENC-003, LUKS-DATA-002] by where they stand in the file', async () => {
    const cipher = toyCipher(true);
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes, clusterBytes, encryption: toyLuks(cipher) });
    const device = new RecordingDevice(memory);
    const image = await openImage(device, { encryption: toyLuks(cipher) });
    cipher.encrypted.length = 0;
    await image.write(5 * clusterBytes, new Uint8Array(clusterBytes).fill(1));
    const [write] = device.log.filter(({ kind, event }) => kind === 'write' && event === 'write_data');
    expect(write).toBeDefined();
    expect(cipher.encrypted).toEqual([(write as RecordedWrite).offset / 512]);
    image.abandon();
  });

  it('[ENC-002] by where the guest sees them, with aes', async () => {
    const cipher = toyCipher(false);
    const memory = new MemoryDevice();
    await createAesImage(memory, { sizeBytes, clusterBytes });
    const image = await openImage(memory, { encryption: toyAes(cipher) });
    await image.write(5 * clusterBytes, new Uint8Array(clusterBytes).fill(1));
    await image.read(5 * clusterBytes + 700, new Uint8Array(10));
    expect(cipher.encrypted).toEqual([(5 * clusterBytes) / 512]);
    expect(cipher.decrypted).toEqual([(5 * clusterBytes) / 512 + 1]);
    image.abandon();
  });
});

describe('a cipher that only adds a stream', () => {
  it('[JRN-COMMIT-012] has no guest bytes in the journal, and a journal all the same', async () => {
    const cipher = toyCipher(true, false);
    const encryption = toyLuks(cipher);
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes, clusterBytes, journal, encryption });
    const device = new RecordingDevice(memory);
    const image = await openImage(device, { encryption });
    for (let i = 0; i < 20; i++) {
      await image.write(i * 3000, marker);
      await image.flush();
    }
    image.abandon();
    const kinds = appendedRecords(device.log).flatMap(({ record }) =>
      record.descriptors.map(({ type }) => type),
    );
    expect(kinds).toContain('inline-write');
    expect(kinds).not.toContain('guest-write');
    const again = await openImage(memory, { encryption });
    const into = new Uint8Array(512);
    for (let i = 0; i < 20; i++) {
      await again.read(i * 3000, into);
      expect(into).toEqual(marker);
    }
    again.abandon();
  });
});

describe('beside an external data file', () => {
  it.each([
    ['journal', { journal }],
    ['ordered', { journal: false }],
  ] as const)('[ENC-001, ENC-005] the file has cipher text, by places of its own: %s', async (_, how) => {
    const encryption = toyLuks();
    const memory = new MemoryDevice();
    const dataFile = new MemoryDevice();
    const external = { dataFile: { device: dataFile, name: 'guest.data', raw: false } };
    // The last sector reaches behind the disk's end.
    await createImage(memory, { sizeBytes: 102_600, clusterBytes, encryption, ...how, ...external });
    const image = await openImage(memory, { encryption, dataFile });
    const expected = new Uint8Array(102_600);
    for (const at of [0, 700, 5000, 40_000, 102_600 - 512]) {
      expected.set(marker, at);
      await image.write(at, marker);
    }
    await image.flush();
    await image.quiesce();
    image.abandon();
    const bytes = new Uint8Array(dataFile.sizeBytes);
    dataFile.read(0, bytes);
    expect(contains(bytes, marker)).toBe(false);
    const again = await openImage(memory, { encryption, dataFile, readOnly: true });
    const seen = new Uint8Array(102_600);
    await again.read(0, seen);
    expect(Buffer.compare(seen, expected)).toBe(0);
  });

  it('[ENC-007] a raw one is not encrypted', async () => {
    const external = { dataFile: { device: new MemoryDevice(), name: 'guest.data', raw: true } };
    const refused = createImage(new MemoryDevice(), { sizeBytes, encryption: toyLuks(), ...external });
    await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', context: { field: 'dataFile' } });
  });
});

describe('the encryption header', () => {
  it('[FDE-002, FDE-003, FDE-004] stands in whole clusters of its own, zeros around what it has', async () => {
    for (const bytes of [512, 4096]) {
      const memory = new MemoryDevice();
      const encryption = toyLuks();
      await createImage(memory, { sizeBytes, clusterBytes: bytes, encryption });
      expect((await checkImage(memory)).findings).toEqual([]);
      const image = await openImage(memory, { encryption });
      await image.changeEncryptionHeader(async (header) => {
        expect(header.lengthBytes).toBe(toyHeaderBytes);
        expect(header.hostOffset % bytes).toBe(0);
        const content = new Uint8Array(toyHeaderBytes);
        await header.read(0, content);
        const expected = new Uint8Array(toyHeaderBytes);
        expected.fill(0x4c, 512, 1112);
        expect(content).toEqual(expected);
      });
      await image.close();
    }
  });

  it('is changed within its bounds, by a writer, and only where there is one', async () => {
    const memory = new MemoryDevice();
    const encryption = toyLuks();
    await createImage(memory, { sizeBytes, clusterBytes, encryption });
    const image = await openImage(memory, { encryption });
    const change = image.changeEncryptionHeader((header) =>
      header.write(toyHeaderBytes - 1, Uint8Array.of(1, 2)),
    );
    await expect(change).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    await image.changeEncryptionHeader(async (header) => {
      await header.write(toyHeaderBytes - 1, Uint8Array.of(7));
      await header.flush();
    });
    // An argument of the caller's was wrong, no more.
    await image.write(0, marker);
    await image.quiesce();
    image.abandon();
    const reader = await openImage(memory, { encryption, readOnly: true });
    await expect(reader.changeEncryptionHeader(async () => undefined)).rejects.toMatchObject({
      code: 'READ_ONLY',
    });
    const plain = new MemoryDevice();
    await createAesImage(plain, { sizeBytes });
    const old = await openImage(plain, { encryption: toyAes() });
    const refused = { code: 'UNSUPPORTED_OPERATION' };
    await expect(old.changeEncryptionHeader(async () => undefined)).rejects.toMatchObject(refused);
  });

  it('[LIM-019] no guest cluster is written where it stands', async () => {
    const memory = new MemoryDevice();
    const encryption = toyLuks();
    await createImage(memory, { sizeBytes, clusterBytes, encryption });
    const image = await openImage(memory, { encryption });
    await image.write(0, marker);
    await image.quiesce();
    const at = await image.changeEncryptionHeader(async (header) => header.hostOffset);
    const { l1Offset } = image.header;
    image.abandon();
    const entry = new Uint8Array(8);
    const view = new DataView(entry.buffer);
    await memory.read(l1Offset, entry);
    const l2Offset = Number(view.getBigUint64(0) & 0x00fffffffffffe00n);
    view.setBigUint64(0, (1n << 63n) | BigInt(at));
    await memory.write(l2Offset, entry);
    const damaged = await openImage(memory, { encryption });
    await expect(async () => damaged.write(0, marker)).rejects.toMatchObject({ code: 'OVERLAP' });
    damaged.abandon();
  });

  it('[ENC-005] version 2 has it too, and no preallocated metadata', async () => {
    const memory = new MemoryDevice();
    const encryption = toyLuks();
    await createImage(memory, { sizeBytes, version: 2, encryption });
    const image = await openImage(memory, { encryption });
    await image.write(777, marker);
    const into = new Uint8Array(512);
    await image.read(777, into);
    expect(into).toEqual(marker);
    expect(() => encodeHeader(image.header)).not.toThrow();
    await image.close();
    const refused = createImage(new MemoryDevice(), {
      sizeBytes,
      version: 2,
      encryption,
      preallocation: 'metadata',
    });
    await expect(refused).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      context: { field: 'preallocation' },
    });
  });
});

it.each([{ journal }, { journal: false } as const])(
  '[DAT-007] in an encrypted data file, too, a larger disk shows zeros behind the old end of its last cluster: %o',
  async (how) => {
    const [memory, data] = [new MemoryDevice(), new MemoryDevice()];
    const encryption = toyLuks();
    const endBytes = 3 * clusterBytes + 1024;
    await createImage(memory, {
      sizeBytes: endBytes,
      clusterBytes,
      encryption,
      dataFile: { device: data, name: 'data' },
      ...how,
    });
    const image = await openImage(memory, { encryption, dataFile: data });
    await image.write(endBytes - 1024, marker);
    await image.resize(5 * clusterBytes, {});
    const shown = new Uint8Array(2 * clusterBytes - 1024);
    await image.read(endBytes, shown);
    expect(shown.every((byte) => byte === 0)).toBe(true);
    await image.close();
  },
);
