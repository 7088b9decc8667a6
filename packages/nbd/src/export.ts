/**
 * What a server offers: a device under a name, with what its clients may know and do.
 *
 * One device object stands behind all connections to an export, and the server keeps no cache of its
 * own, so an export is coherent: a flush on one connection makes durable what was written and answered
 * on any of them. That is the promise of CAN_MULTI_CONN, and it is kept by `BlockDevice.flush`, which
 * covers every write that was done when it was called, whoever asked for it.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { StateError } from '@qcow2/spec';
import { type NbdMetadataContext, type NumberedContext, numberedContexts } from './metadata-context.ts';
import { limits, transmissionFlag } from './protocol.ts';

export interface NbdExport {
  /** What clients ask for; '' is the default export. At most 4096 bytes of UTF-8, no NUL. */
  readonly name: string;
  /** Stays the caller's: the server never flushes it on its own behalf, and never closes it. */
  readonly device: BlockDevice;
  /** A line for a human, shown in listings. */
  readonly description?: string;
  /** Refuse writes even where the device would take them. */
  readonly readOnly?: boolean;
  /**
   * Offsets and lengths must be multiples of this power of two, 1 (the default) to 65536. Above 1, only
   * clients that ask for block sizes are let in.
   */
  readonly minimumBlockBytes?: number;
  /**
   * Say that the device's `hole` extents read as zeros: true for a file, memory, an image without a backing
   * file. By default they are reported as data, which is always safe: a client that copies may skip a hole.
   */
  readonly holesReadAsZeros?: boolean;
  /** What clients may ask beside base:allocation; no two of one name. */
  readonly metadataContexts?: readonly NbdMetadataContext[];
}

/** An export as the server uses it: checked, with its derived numbers. */
export interface ServedExport {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maximumPayloadBytes: number;
  readonly holesReadAsZeros: boolean;
  readonly contexts: readonly NumberedContext[];
}

const preferredBlockBytesDefault = 4096;
const utf8 = new TextEncoder();

/**
 * Check an export and derive its numbers.
 * @throws StateError INVALID_ARGUMENT
 */
export function servedExport(wanted: NbdExport): ServedExport {
  const { name, description = '', device, readOnly = false, minimumBlockBytes = 1 } = wanted;
  const contexts = numberedContexts(wanted.metadataContexts ?? []);
  if (new Set(contexts.map((context) => context.name)).size < contexts.length) {
    throw new StateError('INVALID_ARGUMENT', 'two metadata contexts have one name', {
      field: 'metadataContexts',
    });
  }
  const texts = contexts.map((context) => ['metadataContexts', context.name] as const);
  for (const [field, text] of [...Object.entries({ name, description }), ...texts]) {
    if (text.includes('\0') || utf8.encode(text).length > limits.stringBytes) {
      throw new StateError('INVALID_ARGUMENT', 'an NBD string has no NUL and at most 4096 bytes', { field });
    }
  }
  if (!isPowerOfTwo(minimumBlockBytes) || minimumBlockBytes > limits.minimumBlockBytes) {
    throw new StateError('INVALID_ARGUMENT', 'the minimum block size is a power of two up to 65536', {
      field: 'minimumBlockBytes',
      value: minimumBlockBytes,
    });
  }
  if (device.sizeBytes % minimumBlockBytes !== 0) {
    throw new StateError('INVALID_ARGUMENT', 'the size is not a multiple of the minimum block size', {
      field: 'sizeBytes',
      value: device.sizeBytes,
    });
  }
  return {
    name,
    description,
    device,
    readOnly: readOnly || !device.capabilities.write,
    minimumBlockBytes,
    preferredBlockBytes: preferredBlockBytes(device.capabilities.preferredBlockBytes, minimumBlockBytes),
    maximumPayloadBytes: limits.payloadBytes,
    holesReadAsZeros: wanted.holesReadAsZeros ?? false,
    contexts,
  };
}

/** The transmission flags that a client of the export is told. */
export function transmissionFlags(served: ServedExport, structured: boolean): number {
  const f = transmissionFlag;
  let flags = f.HAS_FLAGS | f.CAN_MULTI_CONN | f.SEND_CACHE;
  if (structured) flags |= f.SEND_DF;
  if (served.readOnly) return flags | f.READ_ONLY;
  flags |= f.SEND_FLUSH | f.SEND_FUA | f.SEND_WRITE_ZEROES | f.SEND_FAST_ZERO;
  if (served.device.capabilities.discard) flags |= f.SEND_TRIM;
  return flags;
}

/** The protocol wants a power of two, at least 512 and the minimum. */
function preferredBlockBytes(deviceBytes: number, minimumBytes: number): number {
  const wanted = deviceBytes > 1 && isPowerOfTwo(deviceBytes) ? deviceBytes : preferredBlockBytesDefault;
  return Math.min(Math.max(wanted, 512, minimumBytes), limits.payloadBytes);
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value > 0 && value <= 2 ** 30 && (value & (value - 1)) === 0;
}
