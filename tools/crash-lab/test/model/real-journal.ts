/** The model's records and slots as bytes of a real journal: a ring of 14 blocks, cells in front of it. */
import { MemoryDevice } from '@qcow2/block-device';
import { encodeRecord, encodeSlot, journalGeometry } from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';
import type { Disk } from '../../src/model/recovery.ts';
import { recordInBlock, type Vocabulary } from '../../src/model/vocabulary.ts';

export const area = { hostOffset: 65536, lengthBytes: 65536 } as const;
export const blockBytes = 4096;
const geometry = journalGeometry(area.lengthBytes, blockBytes);
export const ringBlocks = geometry.ringBytes / blockBytes;
export const ringAt = area.hostOffset + geometry.ringStart;
export const cellBytes = 8;
const journalId = 0x6a6f75726e616cn;

/** Far enough from each other that no two are written as one run. */
export function cellAt(cell: number): number {
  return 4096 + cell * 512;
}

export function bytesOfValue(value: number): Uint8Array {
  const bytes = new Uint8Array(cellBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

export class RealBytes {
  readonly #words: Vocabulary;
  readonly #records = new Map<number, { readonly bytes: Uint8Array; readonly crc: number }>();

  constructor(words: Vocabulary) {
    this.#words = words;
  }

  /** A device with what a modelled disk holds. */
  device(disk: Disk): MemoryDevice {
    const device = new MemoryDevice({ sizeBytes: area.hostOffset + area.lengthBytes });
    for (const [position, content] of disk.ring.entries()) {
      const there = recordInBlock(content);
      if (there === undefined) continue;
      const from = there.block * blockBytes;
      const { bytes } = this.#record(there.record);
      device.write(ringAt + position * blockBytes, bytes.subarray(from, from + blockBytes));
    }
    for (const [index, content] of disk.slots.entries()) {
      device.write(area.hostOffset + index * geometry.slotStrideBytes, this.#slot(content));
    }
    for (const [cell, value] of disk.cells.entries()) device.write(cellAt(cell), bytesOfValue(value));
    return device;
  }

  #record(number: number): { readonly bytes: Uint8Array; readonly crc: number } {
    const known = this.#records.get(number);
    if (known !== undefined) return known;
    const record = this.#words.recordOf(number);
    const made = encodeRecord({
      sequence: record.sequence,
      journalId,
      salt: BigInt(record.salt),
      position: record.position * blockBytes,
      chain: record.chain === 0 ? 0 : this.#record(record.chain).crc,
      durableThrough: record.durableThrough,
      life: record.life,
      blockBytes,
      descriptors: [
        {
          type: 'inline-write',
          hostOffset: hostOffset(cellAt(record.cell)),
          bytes: bytesOfValue(record.value),
        },
      ],
      // Nothing refers to it: it only makes the record as long as it is to be.
      payload: [new Uint8Array((record.blocks - 1) * blockBytes).fill(1 + (number % 255))],
    });
    this.#records.set(number, made);
    return made;
  }

  #slot(number: number): Uint8Array {
    const slot = this.#words.slotOf(number);
    return encodeSlot({
      generation: slot.generation,
      blockSizeOrder: Math.log2(blockBytes),
      journalId,
      areaHostOffset: hostOffset(area.hostOffset),
      areaLengthBytes: area.lengthBytes,
      tailPosition: slot.tailPosition * blockBytes,
      tailSequence: slot.tailSequence,
      tailSalt: BigInt(slot.tailSalt),
      tailChain: slot.tailChain === 0 ? 0 : this.#record(slot.tailChain).crc,
      flags: 0,
      durableSequence: slot.durableSequence,
    });
  }
}
