import { guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  decodeDescriptors,
  descriptorSizeBytes,
  encodeDescriptor,
  type JournalDescriptor,
} from '../../src/journal/v1.ts';
import { thrown } from './thrown.ts';

const context = { hostOffset: 0x52050, payloadLengthBytes: 600, sequence: 7 };
const bytesOf = (...values: number[]) => Uint8Array.from(values);

function encoded(...descriptors: JournalDescriptor[]): Uint8Array {
  const bytes = new Uint8Array(descriptors.reduce((sum, one) => sum + descriptorSizeBytes(one), 0));
  const view = new DataView(bytes.buffer);
  descriptors.reduce((at, one) => encodeDescriptor(one, view, at), 0);
  return bytes;
}

function refusal(descriptor: JournalDescriptor, change: (view: DataView) => void = () => undefined) {
  const bytes = encoded(descriptor);
  change(new DataView(bytes.buffer));
  return thrown(() => decodeDescriptors(bytes, context));
}

const inline: JournalDescriptor = {
  type: 'inline-write',
  hostOffset: hostOffset(8),
  bytes: bytesOf(1, 2, 3),
};
const revoke: JournalDescriptor = { type: 'revoke', hostOffset: hostOffset(512), lengthBytes: 512 };
const write: JournalDescriptor = {
  type: 'write-payload',
  hostOffset: hostOffset(512),
  lengthBytes: 512,
  payloadOffset: 88,
};
const guestWrite: JournalDescriptor = {
  type: 'guest-write',
  guestOffset: guestOffset(512),
  lengthBytes: 512,
  payloadOffset: 88,
};
const settled: JournalDescriptor = {
  type: 'guest-settled',
  guestOffset: guestOffset(512),
  lengthBytes: 512,
  throughSequence: 7,
};
const copy: JournalDescriptor = {
  type: 'copy',
  targetHostOffset: hostOffset(0x20000),
  sourceHostOffset: hostOffset(0x10000),
  lengthBytes: 0x10000,
};
const fill: JournalDescriptor = {
  type: 'fill-from-backing',
  targetHostOffset: hostOffset(0x20000),
  guestOffset: guestOffset(0x20000),
  lengthBytes: 512,
};
const intent: JournalDescriptor = { type: 'intent', intentKind: 1, intentId: 2, body: bytesOf(1) };
const intentDone: JournalDescriptor = { type: 'intent-done', intentId: 2 };
const every = [inline, revoke, write, guestWrite, settled, copy, fill, intent, intentDone];

describe('descriptors', () => {
  it('[JRN-DESC-005, JRN-DESC-010] stand one behind the other, in order', () => {
    const run = encoded(...every);
    expect(decodeDescriptors(run, context)).toEqual(every);
    expect(thrown(() => decodeDescriptors(run.subarray(0, run.length - 8), context))).toEqual({
      code: 'TRUNCATED',
      clause: 'JRN-DESC-005',
    });
    expect(thrown(() => decodeDescriptors(run.subarray(0, 4), context))).toEqual({
      code: 'TRUNCATED',
      clause: 'JRN-DESC-001',
    });
  });

  it.each(every)('[JRN-DESC-001, JRN-DESC-004] $type has no length that is none', (descriptor) => {
    for (const length of [0, 7, 9, 20]) {
      const bad = refusal(descriptor, (view) => view.setUint32(4, length));
      expect(bad).toMatchObject({ clause: 'JRN-DESC-004' });
    }
    expect(refusal(descriptor, (view) => view.setUint32(4, 0xfffffff8))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('[JRN-DESC-003] end with as much zero padding as they say', () => {
    expect(refusal(inline, (view) => view.setUint16(2, 8))).toMatchObject({ clause: 'JRN-DESC-003' });
    const set = refusal(inline, (view) => view.setUint8(23, 1));
    expect(set).toEqual({ code: 'RESERVED_SET', clause: 'JRN-DESC-003' });
    for (const fixed of [revoke, write, guestWrite, settled, copy, fill, intentDone]) {
      const padded = refusal(fixed, (view) => {
        view.setUint16(2, 1);
        view.setUint8(descriptorSizeBytes(fixed) - 1, 0);
      });
      expect(padded).toMatchObject({ clause: 'JRN-DESC-003' });
    }
  });

  it('[JRN-DESC-011] name no empty range and none beyond 2^53', () => {
    for (const [descriptor, at] of [
      [revoke, 16],
      [settled, 16],
      [copy, 24],
      [fill, 24],
    ] as const) {
      expect(refusal(descriptor, (view) => view.setBigUint64(at, 0n))).toMatchObject({
        clause: 'JRN-DESC-011',
      });
      const long = refusal(descriptor, (view) => view.setBigUint64(at, (1n << 53n) - 1n));
      expect(long).toMatchObject({ code: 'OFFSET_TOO_LARGE' });
      const longer = refusal(descriptor, (view) => view.setBigUint64(at, 1n << 63n));
      expect(longer).toMatchObject({ code: 'OFFSET_TOO_LARGE' });
    }
    for (const descriptor of [write, guestWrite]) {
      const empty = refusal(descriptor, (view) => view.setUint32(16, 0));
      expect(empty).toMatchObject({ clause: 'JRN-DESC-011' });
    }
    for (const descriptor of every.slice(0, 7)) {
      const far = refusal(descriptor, (view) => view.setBigUint64(8, (1n << 53n) - 1n));
      expect(far).toMatchObject({ code: 'OFFSET_TOO_LARGE' });
    }
  });

  it('[JRN-DESC-012] refer to payload of their own record only', () => {
    for (const descriptor of [write, guestWrite]) {
      expect(refusal(descriptor)).toBeUndefined();
      for (const [at, value] of [
        [16, 513],
        [20, 89],
        [20, 0xffffffff],
        [16, 0xffffffff],
      ] as const) {
        const outside = refusal(descriptor, (view) => view.setUint32(at, value));
        expect(outside).toMatchObject({ clause: 'JRN-DESC-012' });
      }
    }
  });

  it('[JRN-DESC-024] hold 1 to 65,536 bytes inline', () => {
    const most: JournalDescriptor = { ...inline, bytes: new Uint8Array(0x10000) };
    expect(decodeDescriptors(encoded(most), context)).toEqual([most]);
    expect(thrown(() => encoded({ ...inline, bytes: new Uint8Array(0x10001) }))).toMatchObject({
      code: 'INVARIANT',
    });
    expect(thrown(() => encoded({ ...inline, bytes: bytesOf() }))).toMatchObject({ code: 'INVARIANT' });
    const empty = bytesOf(0, 16, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 8);
    expect(thrown(() => decodeDescriptors(empty, context))).toMatchObject({ clause: 'JRN-DESC-024' });
    const headOnly = bytesOf(0, 16, 0, 0, 0, 0, 0, 8);
    expect(thrown(() => decodeDescriptors(headOnly, context))).toMatchObject({ clause: 'JRN-DESC-024' });
  });

  it('[JRN-DESC-028] say what the guest wrote in whole sectors', () => {
    const cases = [
      [guestWrite, (view: DataView) => view.setUint32(16, 511)],
      [guestWrite, (view: DataView) => view.setUint32(16, 1)],
      [guestWrite, (view: DataView) => view.setBigUint64(8, 256n)],
      [settled, (view: DataView) => view.setBigUint64(16, 513n)],
      [settled, (view: DataView) => view.setBigUint64(8, 1n)],
    ] as const;
    for (const [descriptor, change] of cases) {
      expect(refusal(descriptor, change)).toEqual({ code: 'BAD_ALIGNMENT', clause: 'JRN-DESC-028' });
    }
    const unaligned = { ...guestWrite, guestOffset: guestOffset(1) };
    expect(thrown(() => encoded(unaligned))).toMatchObject({ code: 'INVARIANT' });
    const empty = { ...settled, lengthBytes: 0 };
    expect(thrown(() => encoded(empty))).toMatchObject({ code: 'INVARIANT' });
  });

  it('[JRN-DESC-027] settle no later record', () => {
    expect(refusal(settled)).toBeUndefined();
    expect(refusal({ ...settled, throughSequence: 8 })).toMatchObject({ clause: 'JRN-DESC-027' });
  });

  it('[JRN-COPY-003] copy between ranges that do not overlap', () => {
    expect(refusal(copy)).toBeUndefined();
    for (const source of [0x10001, 0x20000, 0x2ffff]) {
      const overlapping = refusal({ ...copy, sourceHostOffset: hostOffset(source) });
      expect(overlapping).toEqual({ code: 'OVERLAP', clause: 'JRN-COPY-003' });
    }
    expect(refusal({ ...copy, sourceHostOffset: hostOffset(0x30000) })).toBeUndefined();
  });

  it('[JRN-DESC-022] of deduplication are unknown, and so is what nobody defined', () => {
    for (const number of [4, 5, 6, 15, 22, 0x7fff, 0x8000, 0xffff]) {
      const unknown: JournalDescriptor = { type: 'unknown', number, body: bytesOf(1, 2, 3) };
      expect(decodeDescriptors(encoded(unknown), context)).toEqual([unknown]);
    }
  });

  it('[JRN-INTENT-001] intents have no reserved bytes set and are never cut short', () => {
    expect(refusal(intent, (view) => view.setUint32(12, 1))).toMatchObject({ code: 'RESERVED_SET' });
    const short = bytesOf(0, 20, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0);
    expect(thrown(() => decodeDescriptors(short, context))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('are of the size that the encoder gives them', () => {
    for (const descriptor of every) {
      const bytes = new Uint8Array(descriptorSizeBytes(descriptor) + 8);
      const end = encodeDescriptor(descriptor, new DataView(bytes.buffer), 8);
      expect(end).toBe(8 + descriptorSizeBytes(descriptor));
      expect(descriptorSizeBytes(descriptor) % 8).toBe(0);
    }
  });
});
