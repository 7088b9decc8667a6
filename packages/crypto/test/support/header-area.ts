/** An encryption header in memory, with all that was done to it. */
import type { EncryptionHeaderArea, PreparedEncryption } from '@qcow2/driver';

export interface MemoryArea extends EncryptionHeaderArea {
  readonly bytes: Uint8Array;
  /** Writes since the last flush, and flushes. */
  readonly log: (readonly [at: number, bytes: Uint8Array] | 'flush')[];
}

export function memoryArea(prepared: PreparedEncryption): MemoryArea {
  const bytes = new Uint8Array(prepared.headerBytes);
  for (const piece of prepared.pieces) bytes.set(piece.bytes, piece.at);
  return areaOver(bytes);
}

export function areaOver(bytes: Uint8Array): MemoryArea {
  const log: MemoryArea['log'] = [];
  return {
    hostOffset: 0x50000,
    lengthBytes: bytes.length,
    bytes,
    log,
    read: async (at, into) => into.set(bytes.subarray(at, at + into.length)),
    write: async (at, piece) => {
      log.push([at, piece.slice()]);
      bytes.set(piece, at);
    },
    flush: async () => void log.push('flush'),
  };
}
