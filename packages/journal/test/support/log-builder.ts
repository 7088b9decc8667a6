/** Logs made by hand, record by record, with whatever a test wants to be wrong. */
import { MemoryDevice, run } from '@qcow2/block-device';
import {
  decodeSlot,
  encodeRecord,
  encodeSlot,
  type JournalDescriptor,
  type JournalSlot,
  journalGeometry,
  type RecordContent,
} from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';
import { formatArea } from '../../src/index.ts';
import { random } from './random.ts';

export const area = { hostOffset: 65536, lengthBytes: 65536 } as const;
export const blockBytes = 512;
const geometry = journalGeometry(area.lengthBytes, blockBytes);
export const ring = { hostOffset: area.hostOffset + geometry.ringStart, lengthBytes: geometry.ringBytes };

export interface Placed {
  readonly sequence: number;
  /** Host offset of its first block. */
  readonly at: number;
  readonly lengthBytes: number;
}

export class LogBuilder {
  readonly device: MemoryDevice;
  readonly placed: Placed[] = [];
  #slot: JournalSlot;
  #position: number;
  #sequence: number;
  #chain: number;
  #salt: bigint;

  private constructor(device: MemoryDevice, slot: JournalSlot) {
    this.device = device;
    this.#slot = slot;
    this.#position = slot.tailPosition;
    this.#sequence = slot.tailSequence - 1;
    this.#chain = slot.tailChain;
    this.#salt = slot.tailSalt;
  }

  /** An area newly formatted over a device of zeros, its tail moved to `tailPosition` where that is given. */
  static async make(tailPosition = 0): Promise<LogBuilder> {
    const device = new MemoryDevice({ sizeBytes: area.hostOffset + area.lengthBytes });
    await run(formatArea(device, area, blockBytes, random(5).fill));
    const builder = new LogBuilder(device, readSlot(device, 1));
    if (tailPosition !== 0) builder.writeSlots({ tailPosition });
    return new LogBuilder(device, { ...builder.slot, tailPosition });
  }

  /** The ruling slot. */
  get slot(): JournalSlot {
    return this.#slot;
  }

  /** Where the next record goes. */
  get head(): number {
    return ring.hostOffset + this.#position;
  }

  append(
    descriptors: readonly JournalDescriptor[],
    payload: readonly Uint8Array[] = [],
    over: Partial<RecordContent> = {},
  ): Placed {
    const life = this.placed.length === 0;
    const record = encodeRecord({
      sequence: this.#sequence + 1,
      journalId: this.#slot.journalId,
      salt: life ? this.#salt + 1n : this.#salt,
      position: this.#position,
      chain: this.#chain,
      durableThrough: this.#sequence,
      life,
      blockBytes,
      descriptors,
      payload,
      ...over,
    });
    return this.place(record.bytes, over.salt ?? (life ? this.#salt + 1n : this.#salt), record.crc);
  }

  /** Put a record's bytes at the head, wrapped, and go on behind it. */
  place(bytes: Uint8Array, salt: bigint, crc: number): Placed {
    const at = this.head;
    const first = Math.min(bytes.length, ring.lengthBytes - this.#position);
    this.device.write(at, bytes.subarray(0, first));
    if (first < bytes.length) this.device.write(ring.hostOffset, bytes.subarray(first));
    this.#position = (this.#position + bytes.length) % ring.lengthBytes;
    this.#sequence++;
    this.#salt = salt;
    this.#chain = crc;
    const placed = { sequence: this.#sequence, at, lengthBytes: bytes.length };
    this.placed.push(placed);
    return placed;
  }

  /** Rewrite both slots with other values. */
  writeSlots(over: Partial<JournalSlot>): void {
    for (const index of [0, 1]) this.writeSlot(index, { ...readSlot(this.device, index), ...over });
    this.#slot = { ...this.#slot, ...over };
  }

  writeSlot(index: number, slot: JournalSlot): void {
    this.device.write(slotAt(index), encodeSlot(slot));
  }

  flip(at: number, bit = 0): void {
    const byte = new Uint8Array(1);
    this.device.read(at, byte);
    this.device.write(at, Uint8Array.of(byte[0]! ^ (1 << bit)));
  }
}

export function slotAt(index: number): number {
  return area.hostOffset + index * geometry.slotStrideBytes;
}

export function readSlot(device: MemoryDevice, index: number): JournalSlot {
  const bytes = new Uint8Array(512);
  device.read(slotAt(index), bytes);
  return decodeSlot(bytes, { hostOffset: hostOffset(slotAt(index)) });
}
