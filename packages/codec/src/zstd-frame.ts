/**
 * The outline of a zstd frame (RFC 8878): what it says of its content, and where it ends. Read from its headers alone,
 * before a decoder sees it: that one would allocate a window of the size that the frame asks for, and take the bytes
 * behind the frame for another one.
 *
 *   magic (4), descriptor (1), window (0, 1), dictionary (0, 1, 2, 4), content size (0, 1, 2, 4, 8)
 *   blocks: 3 bytes of head, content; the last one is marked
 *   checksum (0, 4)
 */
import { FormatError, qcow2Limits } from '@qcow2/spec';
import { damagedCluster } from './compression-errors.ts';

export interface ZstdFrame {
  /** From the magic to the end of the checksum. */
  readonly lengthBytes: number;
  /** What a decoder must keep of its output. */
  readonly windowBytes: number;
  /** Size of the content, where the frame names it. */
  readonly contentBytes: number | undefined;
}

const magic = 0xfd2fb528;
const runBlock = 1;
const reservedBlock = 3;

/**
 * The frame at the beginning of `bytes`, which is to make one cluster.
 * @throws COMPRESSED_DAMAGED where there is none, or one of another size; LIMIT_EXCEEDED for a window above the limit
 *   [CMP-008, CMP-009, LIM-021]
 */
export function outlineZstdFrame(bytes: Uint8Array, clusterBytes: number): ZstdFrame {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    return outline(view, clusterBytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw damagedCluster('a zstd frame that ends before it is whole', error);
  }
}

/** @throws RangeError, of the view, where the frame is cut off */
function outline(view: DataView, clusterBytes: number): ZstdFrame {
  if (view.getUint32(0, true) !== magic) throw refused('compressed data that is no zstd frame');
  const descriptor = view.getUint8(4);
  const isSingle = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x08) !== 0) throw refused('a zstd frame with a reserved bit set');
  let at = 5;
  let windowBytes = 0;
  if (!isSingle) {
    const code = view.getUint8(at++);
    windowBytes = 2 ** (10 + (code >>> 3)) * (1 + (code & 7) / 8);
  }
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3]!;
  for (let i = 0; i < dictionaryBytes; i++) {
    if (view.getUint8(at++) !== 0) throw refused('a zstd frame that needs a dictionary');
  }
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
  const contentBytes = readContentBytes(view, at, sizeBytes);
  if (contentBytes !== undefined && contentBytes !== clusterBytes) {
    throw refused('a zstd frame whose content is no cluster', contentBytes);
  }
  if (isSingle) windowBytes = clusterBytes;
  if (windowBytes > qcow2Limits.maxZstdWindowBytes) {
    const context = { value: windowBytes, clause: 'LIM-021' };
    throw new FormatError('LIMIT_EXCEEDED', 'a zstd frame with a window above the limit', context);
  }
  const end = endOfBlocks(view, at + sizeBytes) + ((descriptor & 4) !== 0 ? 4 : 0);
  if (end > view.byteLength) throw refused('a zstd frame that ends before it is whole');
  return { lengthBytes: end, windowBytes, contentBytes };
}

function readContentBytes(view: DataView, at: number, sizeBytes: number): number | undefined {
  switch (sizeBytes) {
    case 0:
      return undefined;
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    default:
      return Number(view.getBigUint64(at, true));
  }
}

/** Every block takes three bytes at least, so there are no more of them than the input has room for. */
function endOfBlocks(view: DataView, start: number): number {
  let at = start;
  for (let last = false; !last; ) {
    const head = view.getUint16(at, true) + view.getUint8(at + 2) * 0x10000;
    last = (head & 1) === 1;
    const type = (head >>> 1) & 3;
    if (type === reservedBlock) throw refused('a zstd block of a reserved type');
    at += 3 + (type === runBlock ? 1 : head >>> 3);
  }
  return at;
}

function refused(message: string, value?: number): FormatError {
  return new FormatError('COMPRESSED_DAMAGED', message, { value, clause: 'CMP-009' });
}
