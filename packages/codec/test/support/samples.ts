/** Sound values that tests spoil one at a time, and the error that came of it. */

import { encodeHeader, type Qcow2Header, type Snapshot } from '@qcow2/codec';
import { FormatError, Qcow2Error } from '@qcow2/spec';

/** A version 3 header as `qemu-img create` makes it for 1 GiB, without extensions. */
export function sampleHeader(changes: Partial<Qcow2Header> = {}): Qcow2Header {
  return {
    version: 3,
    backingFileOffset: 0,
    backingFileLengthBytes: 0,
    clusterBits: 16,
    sizeBytes: 2 ** 30,
    cryptMethod: 0,
    l1Entries: 2,
    l1Offset: 0x30000,
    refcountTableOffset: 0x10000,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    refcountOrder: 4,
    headerLengthBytes: 112,
    compressionType: 0,
    unknownHeaderBytes: new Uint8Array(7),
    extensions: [],
    ...changes,
  };
}

export function sampleHeaderV2(changes: Partial<Qcow2Header> = {}): Qcow2Header {
  const v2 = { version: 2, headerLengthBytes: 72, unknownHeaderBytes: new Uint8Array() };
  return sampleHeader({ ...v2, ...changes });
}

/** The first cluster of `sampleHeader`, with integers put over it: `[byte, width in bytes, value]`. */
export function spoiledHeader(
  spoils: readonly (readonly [number, 1 | 4 | 8, number | bigint])[],
  header = sampleHeader(),
): Uint8Array {
  const bytes = encodeHeader(header);
  const view = viewOf(bytes);
  for (const [at, width, value] of spoils) {
    if (width === 1) view.setUint8(at, Number(value));
    else if (width === 4) view.setUint32(at, Number(value));
    else view.setBigUint64(at, BigInt(value));
  }
  return bytes;
}

export function sampleSnapshot(changes: Partial<Snapshot> = {}): Snapshot {
  return {
    l1Offset: 0x40000,
    l1Entries: 2,
    id: '1',
    name: 'before the update',
    dateSeconds: 1_700_000_000,
    dateNanoseconds: 999_999_999,
    vmClockNanoseconds: 2n ** 60n,
    vmStateLengthBytes: 0,
    vmStateInExtraData: true,
    diskSizeBytes: 2 ** 30,
    instructionCount: 2n ** 64n - 1n,
    unknownExtraData: new Uint8Array(),
    ...changes,
  };
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** One 64-bit entry in a view of its own, with the second word of an extended one behind it. */
export function entryView(entry: bigint, bitmap = 0n): DataView {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, entry);
  view.setBigUint64(8, bitmap);
  return view;
}

/** What a call was refused with: code, clause, field, host offset. A call that is not refused fails the test. */
export function refusal(call: () => unknown): {
  code: string;
  clause: string | undefined;
  field: string | undefined;
  hostOffset: number | undefined;
} {
  try {
    call();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    const { clause, field, hostOffset } = error.context;
    return { code: error.code, clause, field, hostOffset };
  }
  throw new FormatError('BAD_FIELD', 'the call was not refused');
}
