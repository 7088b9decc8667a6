/**
 * Mutations of a v1 journal area: its slots, its records, their descriptors, the order in which they stand.
 *
 * The area is known from the sound base: where the slots are, where each record begins, how long it is. Mutations
 * work on that list and on the bytes; `seal` then makes checksums right again, as a whole chain, record by record,
 * or not at all, so that what is damaged is reached and not only the checksum.
 */
import {
  crc32c,
  encodeRecord,
  journalGeometry,
  peekRecordHeader,
  verifyRecord,
} from '@qcow2/codec/journal/v1';
import {
  journalCopyLayout,
  journalDescriptorHeadLayout,
  journalFillFromBackingLayout,
  journalGuestSettledLayout,
  journalGuestWriteLayout,
  journalInlineWriteLayout,
  journalIntentDoneLayout,
  journalIntentLayout,
  journalRecordHeaderLayout,
  journalRevokeLayout,
  journalSlotLayout,
  journalV1Limits,
  journalWritePayloadLayout,
  type Layout,
} from '@qcow2/spec';
import { drawDescriptors } from './draw-descriptors.ts';
import type { GuardedDevice } from './guarded-device.ts';
import type { Random } from './random.ts';
import { mutateBytes, mutateField, put } from './values.ts';

const descriptorLayouts = new Map<number, Layout>([
  [1, journalWritePayloadLayout],
  [2, journalCopyLayout],
  [3, journalRevokeLayout],
  [16, journalInlineWriteLayout],
  [17, journalGuestWriteLayout],
  [18, journalGuestSettledLayout],
  [19, journalFillFromBackingLayout],
  [20, journalIntentLayout],
  [21, journalIntentDoneLayout],
]);
const headerBytes = journalRecordHeaderLayout.sizeBytes;
const slotBytes: number = journalV1Limits.slotBytes;

export interface AreaPlace {
  readonly hostOffset: number;
  readonly lengthBytes: number;
  readonly blockBytes: number;
}

interface Placed {
  position: number;
  readonly blocks: number;
}

interface RawDescriptor {
  readonly at: number;
  readonly lengthBytes: number;
}

export class AreaMutator {
  readonly #device: GuardedDevice;
  readonly #place: AreaPlace;
  readonly #slots: readonly [number, number];
  readonly #ringStart: number;
  readonly #ringBytes: number;
  readonly #hints: readonly number[];
  /** The records of the base, oldest first. */
  readonly #sound: readonly Placed[];
  #records: Placed[] = [];

  /** @param hints numbers that mean something in the image around the area */
  constructor(device: GuardedDevice, place: AreaPlace, hints: readonly number[]) {
    this.#device = device;
    this.#place = place;
    const { slotStrideBytes, ringStart, ringBytes } = journalGeometry(place.lengthBytes, place.blockBytes);
    this.#slots = [place.hostOffset, place.hostOffset + slotStrideBytes];
    this.#ringStart = place.hostOffset + ringStart;
    this.#ringBytes = ringBytes;
    this.#hints = [
      ...hints,
      place.hostOffset,
      place.lengthBytes,
      place.blockBytes,
      ringBytes,
      ringBytes - place.blockBytes,
      ringBytes / place.blockBytes / 4,
    ];
    this.#sound = this.#findRecords();
    this.reset();
  }

  /** Records of the base. */
  get recordCount(): number {
    return this.#sound.length;
  }

  reset(): void {
    this.#records = this.#sound.map((record) => ({ ...record }));
  }

  mutate(random: Random): void {
    const record = this.#records.length === 0 ? undefined : random.pick(this.#records);
    if (record === undefined) {
      this.#append(random);
      return;
    }
    switch (random.below(14)) {
      case 0:
      case 1:
        this.#edit(record, (bytes) => mutateField(bytes, 0, journalRecordHeaderLayout, random, this.#hints));
        return;
      case 2:
      case 3:
      case 4:
        this.#edit(record, (bytes) => this.#mutateDescriptor(bytes, random));
        return;
      case 5:
      case 6:
        this.#edit(record, (bytes) => this.#rearrange(bytes, random));
        return;
      case 7:
        this.#edit(record, (bytes) => mutateBytes(bytes, random));
        return;
      case 8:
        this.#moveRecord(record, random);
        return;
      case 9:
        this.#removeRecord(record, random);
        return;
      case 10:
        this.#append(random);
        return;
      case 11:
        this.#mutateSlot(random);
        return;
      case 12:
        this.#moveTail(random);
        return;
      default:
        this.#changeLife(random);
        return;
    }
  }

  seal(random: Random): void {
    const how = random.below(8);
    if (how === 0) return;
    if (!random.chance(8)) for (const at of this.#slots) this.#sealSlot(at);
    let chain: number | undefined;
    for (const record of this.#records) {
      this.#edit(record, (bytes) => {
        const view = new DataView(bytes.buffer);
        if (how > 1 && chain !== undefined) view.setUint32(44, chain);
        // The record's own length says what the checksum covers.
        const covered = Math.min(bytes.length, Math.max(1, view.getUint32(40)) * this.#place.blockBytes);
        view.setUint32(4, 0);
        chain = crc32c(bytes.subarray(0, covered));
        view.setUint32(4, chain);
      });
    }
  }

  #findRecords(): Placed[] {
    const { blockBytes } = this.#place;
    const maxBlocks = Math.floor(this.#ringBytes / blockBytes / 4);
    const found: (Placed & { readonly sequence: number })[] = [];
    for (let position = 0; position < this.#ringBytes; position += blockBytes) {
      const head = peekRecordHeader(this.#ringCopy(position, blockBytes));
      if (head === undefined || head.position !== position || head.lengthBlocks > maxBlocks) continue;
      const bytes = this.#ringCopy(position, head.lengthBlocks * blockBytes);
      if (verifyRecord(bytes, { blockBytes, maxBlocks }) === undefined) continue;
      found.push({ position, blocks: head.lengthBlocks, sequence: head.sequence });
    }
    return found.sort((a, b) => a.sequence - b.sequence);
  }

  /** A copy from the ring, wrapped. */
  #ringCopy(position: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(lengthBytes);
    const first = Math.min(lengthBytes, this.#ringBytes - position);
    const from = this.#ringStart + position;
    bytes.set(this.#device.bytes.subarray(from, from + first));
    const rest = lengthBytes - first;
    if (rest > 0) bytes.set(this.#device.bytes.subarray(this.#ringStart, this.#ringStart + rest), first);
    return bytes;
  }

  #putRing(position: number, bytes: Uint8Array): void {
    const first = Math.min(bytes.length, this.#ringBytes - position);
    this.#put(this.#ringStart + position, bytes.subarray(0, first));
    if (first < bytes.length) this.#put(this.#ringStart, bytes.subarray(first));
  }

  #put(at: number, bytes: Uint8Array): void {
    this.#device.touch(at, bytes.length);
    this.#device.bytes.set(bytes, at);
  }

  #edit(record: Placed, change: (bytes: Uint8Array<ArrayBuffer>) => void): void {
    const bytes = this.#ringCopy(record.position, record.blocks * this.#place.blockBytes);
    change(bytes);
    this.#putRing(record.position, bytes);
  }

  /** The descriptors of a record as its own lengths tell, as far as they make sense. */
  #descriptorsOf(bytes: Uint8Array<ArrayBuffer>): RawDescriptor[] {
    const view = new DataView(bytes.buffer);
    let at = view.getUint16(68);
    const end = Math.min(bytes.length, at + view.getUint32(56));
    const found: RawDescriptor[] = [];
    while (at >= headerBytes && at + 8 <= end && found.length < 64) {
      const lengthBytes = view.getUint32(at + 4);
      if (lengthBytes < 8 || at + lengthBytes > end) break;
      found.push({ at, lengthBytes });
      at += lengthBytes;
    }
    return found;
  }

  #mutateDescriptor(bytes: Uint8Array<ArrayBuffer>, random: Random): void {
    const found = this.#descriptorsOf(bytes);
    if (found.length === 0) {
      mutateBytes(bytes, random);
      return;
    }
    const { at } = random.pick(found);
    const number = new DataView(bytes.buffer).getUint16(at);
    const layout = random.chance(4) ? journalDescriptorHeadLayout : descriptorLayouts.get(number);
    mutateField(bytes, at, layout ?? journalDescriptorHeadLayout, random, this.#hints);
  }

  /** Leave out, double, swap or add a descriptor; the header's lengths follow, and the payload moves. */
  #rearrange(bytes: Uint8Array<ArrayBuffer>, random: Random): void {
    const found = this.#descriptorsOf(bytes);
    const view = new DataView(bytes.buffer);
    const pieces: Uint8Array[] = found.map(({ at, lengthBytes }) => bytes.slice(at, at + lengthBytes));
    const from = view.getUint32(64);
    const payload = bytes.slice(from, Math.min(bytes.length, from + view.getUint32(60)));
    const index = random.below(pieces.length);
    const other = random.below(pieces.length + 1);
    const how = random.below(4);
    if (how === 0) pieces.splice(index, 1);
    else if (how === 1 && pieces[index] !== undefined) pieces.splice(other, 0, pieces[index]);
    else if (how === 2 && pieces[index] !== undefined) pieces.splice(other, 0, ...pieces.splice(index, 1));
    else pieces.splice(other, 0, ...drawDescriptors(random, this.#hints, payload.length).encoded);
    let at = headerBytes;
    bytes.fill(0, headerBytes);
    for (const piece of pieces) {
      if (at + piece.length > bytes.length) break;
      bytes.set(piece, at);
      at += piece.length;
    }
    view.setUint16(68, headerBytes);
    view.setUint32(56, at - headerBytes);
    view.setUint32(64, at);
    const kept = Math.min(payload.length, bytes.length - at);
    bytes.set(payload.subarray(0, kept), at);
    view.setUint32(60, kept);
  }

  /** A copy of a record stands where another one stood, or further on; it may say so itself or not. */
  #moveRecord(record: Placed, random: Random): void {
    const bytes = this.#ringCopy(record.position, record.blocks * this.#place.blockBytes);
    const other = random.pick(this.#records);
    const blocks = this.#ringBytes / this.#place.blockBytes;
    const to = random.chance(2) ? other.position : random.below(blocks) * this.#place.blockBytes;
    if (random.chance(2)) put(bytes, 32, 8, BigInt(to));
    if (random.chance(3)) {
      // The two change places, with each other's numbers in the chain or without.
      const theirs = this.#ringCopy(other.position, other.blocks * this.#place.blockBytes);
      this.#putRing(record.position, theirs.subarray(0, bytes.length));
    }
    this.#putRing(to, bytes);
  }

  #removeRecord(record: Placed, random: Random): void {
    const { blockBytes } = this.#place;
    const block = random.chance(2) ? 0 : record.blocks - 1;
    const at = (record.position + block * blockBytes) % this.#ringBytes;
    this.#putRing(at, new Uint8Array(blockBytes));
    if (block === 0) this.#records = this.#records.filter((one) => one !== record);
  }

  /** One more record behind the last, sound in itself, with descriptors of any kind. */
  #append(random: Random): void {
    const { blockBytes } = this.#place;
    const last = this.#records.at(-1);
    const before =
      last === undefined
        ? undefined
        : peekRecordHeader(this.#ringCopy(last.position, last.blocks * blockBytes));
    const slot = new DataView(this.#device.bytes.buffer, this.#slots[random.below(2)], slotBytes);
    const position =
      last === undefined ? Number(slot.getBigUint64(48)) : last.position + last.blocks * blockBytes;
    const payload = new Uint8Array(random.below(4) * 512).fill(0x66);
    const { descriptors } = drawDescriptors(random, this.#hints, payload.length);
    const sequence = before?.sequence ?? Number(slot.getBigUint64(56)) - 1;
    const place = (position < 0 || !Number.isSafeInteger(position) ? 0 : position) % this.#ringBytes;
    const { bytes } = encodeRecord({
      sequence: Number.isSafeInteger(sequence + 1) ? sequence + 1 : 1,
      journalId: slot.getBigUint64(24),
      salt: before?.salt ?? slot.getBigUint64(64),
      position: place,
      chain: before?.crc ?? slot.getUint32(72),
      durableThrough: random.chance(4) ? sequence : 0,
      life: random.chance(3),
      blockBytes,
      descriptors,
      payload: [payload],
    });
    if (bytes.length > this.#ringBytes / 4) return;
    this.#putRing(place - (place % blockBytes), bytes);
    this.#records.push({ position: place - (place % blockBytes), blocks: bytes.length / blockBytes });
  }

  #mutateSlot(random: Random): void {
    const at = random.pick(this.#slots);
    this.#device.touch(at, slotBytes);
    if (random.chance(6)) {
      const other = this.#slots[0] === at ? this.#slots[1] : this.#slots[0];
      this.#put(at, this.#device.bytes.slice(other, other + slotBytes));
      return;
    }
    mutateField(this.#device.bytes, at, journalSlotLayout, random, this.#hints);
  }

  /** Both slots say that the log begins at another record, soundly but perhaps for its salt or chain. */
  #moveTail(random: Random): void {
    const index = random.below(this.#records.length);
    const record = this.#records[index]!;
    const head = peekRecordHeader(this.#ringCopy(record.position, record.blocks * this.#place.blockBytes));
    if (head === undefined) return;
    const before = this.#records[index - 1];
    const salt =
      before === undefined
        ? head.salt
        : (peekRecordHeader(this.#ringCopy(before.position, this.#place.blockBytes))?.salt ?? head.salt);
    for (const at of this.#slots) {
      this.#device.touch(at, slotBytes);
      put(this.#device.bytes, at + 48, 8, BigInt(record.position));
      put(this.#device.bytes, at + 56, 8, BigInt(head.sequence));
      put(this.#device.bytes, at + 64, 8, salt);
      put(this.#device.bytes, at + 72, 4, BigInt(head.chain));
      put(this.#device.bytes, at + 80, 8, BigInt(head.sequence - 1 + random.below(3)));
    }
  }

  /** From one record on the log is of another life, marked as such or not. */
  #changeLife(random: Random): void {
    const from = random.below(this.#records.length);
    const salt = BigInt(random.next());
    const mark = random.chance(2);
    for (const [index, record] of this.#records.entries()) {
      if (index < from) continue;
      this.#edit(record, (bytes) => {
        put(bytes, 24, 8, salt);
        if (index === from && mark) put(bytes, 70, 2, 1n);
      });
    }
  }

  #sealSlot(at: number): void {
    this.#device.touch(at, slotBytes);
    const slot = this.#device.bytes.subarray(at, at + slotBytes);
    put(slot, slotBytes - 4, 4, BigInt(crc32c(slot.subarray(0, slotBytes - 4))));
  }
}
