/**
 * Refcounts of 1 to 64 bits, read and written in place in a refcount block (one cluster).
 *
 * Entries of less than a byte fill a byte from its least significant end; entries of more are
 * big-endian. One codec object for each order, made once: the methods of one image stay monomorphic.
 */
import { FormatError, qcow2Limits, StateError } from '@qcow2/spec';

export interface RefcountCodec {
  /** log2 of the width in bits, 0 to 6. */
  readonly order: number;
  readonly widthBits: number;
  /** Greatest refcount that can be stored; 2^53 - 1 for 64 bits. [RCB-002] [LIM-016] */
  readonly maxValue: number;
  /** Refcounts in one refcount block. [RCB-001] */
  entriesPerBlock(clusterBytes: number): number;
  /**
   * @param blockOffset host offset of the view's first byte, for the error
   * @throws FormatError LIMIT_EXCEEDED for a 64-bit refcount above 2^53 - 1
   */
  get(view: DataView, index: number, blockOffset?: number): number;
  /** @throws StateError INVALID_ARGUMENT for a value that is no integer from 0 to `maxValue` */
  set(view: DataView, index: number, value: number): void;
}

const twoTo32 = 0x100000000;

/** Codec of a refcount order (header field `refcountOrder`). @throws FormatError BAD_FIELD [HDR-018] */
export function refcountCodec(order: number): RefcountCodec {
  if (!Number.isInteger(order) || order < 0 || order > 6) {
    const context = { field: 'refcountOrder', value: order, clause: 'HDR-018' };
    throw new FormatError('BAD_FIELD', 'a refcount order is from 0 to 6', context);
  }
  const widthBits = 1 << order;
  const maxValue = widthBits === 64 ? qcow2Limits.maxRefcount : 2 ** widthBits - 1;
  return {
    order,
    widthBits,
    maxValue,
    entriesPerBlock: (clusterBytes) => (clusterBytes * 8) / widthBits,
    ...accessors(order, maxValue),
  };
}

function accessors(order: number, max: number): Pick<RefcountCodec, 'get' | 'set'> {
  switch (order) {
    case 3:
      return {
        get: (view, index) => view.getUint8(index),
        set: (view, index, value) => view.setUint8(index, storable(value, max)),
      };
    case 4:
      return {
        get: (view, index) => view.getUint16(index * 2),
        set: (view, index, value) => view.setUint16(index * 2, storable(value, max)),
      };
    case 5:
      return {
        get: (view, index) => view.getUint32(index * 4),
        set: (view, index, value) => view.setUint32(index * 4, storable(value, max)),
      };
    case 6:
      return { get: get64, set: set64 };
    default:
      return subByteAccessors(order, max);
  }
}

function subByteAccessors(order: number, max: number): Pick<RefcountCodec, 'get' | 'set'> {
  const indexShift = 3 - order;
  const indexMask = (1 << indexShift) - 1;
  return {
    get: (view, index) => (view.getUint8(index >>> indexShift) >>> ((index & indexMask) << order)) & max,
    set: (view, index, value) => {
      const shift = (index & indexMask) << order;
      const others = view.getUint8(index >>> indexShift) & ~(max << shift);
      view.setUint8(index >>> indexShift, others | (storable(value, max) << shift));
    },
  };
}

function get64(view: DataView, index: number, blockOffset = 0): number {
  const high = view.getUint32(index * 8);
  if (high > 0x1fffff) {
    throw new FormatError('LIMIT_EXCEEDED', 'a refcount above 2^53 - 1', {
      hostOffset: blockOffset + index * 8,
      field: 'refcount',
      value: view.getBigUint64(index * 8),
      clause: 'LIM-016',
    });
  }
  return high * twoTo32 + view.getUint32(index * 8 + 4);
}

function set64(view: DataView, index: number, value: number): void {
  storable(value, qcow2Limits.maxRefcount);
  view.setUint32(index * 8, value / twoTo32);
  view.setUint32(index * 8 + 4, value >>> 0);
}

function storable(value: number, max: number): number {
  if (value >= 0 && value <= max && Number.isInteger(value)) return value;
  const context = { field: 'refcount', value, clause: 'RCB-002' };
  throw new StateError('INVALID_ARGUMENT', `a refcount is from 0 to ${max}`, context);
}
