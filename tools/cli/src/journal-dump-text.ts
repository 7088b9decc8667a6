/** A journal dump for people: a line for each thing that stands in the journal, ranges with both ends inclusive. */
import type { IntentDescriptor, JournalDescriptor } from '@qcow2/codec';
import type {
  InspectedEnd,
  InspectedLog,
  InspectedRecord,
  InspectedSlot,
  InspectedSlots,
} from '@qcow2/journal';
import type { Qcow2Error } from '@qcow2/spec';
import { describeError } from './failures.ts';
import { intentFacts } from './intent-facts.ts';
import { type DumpPrinter, hexDigits, type NamedDescriptor } from './journal-dump.ts';
import type { NamedJournal } from './journal-facts.ts';
import type { Belonging } from './metadata-map.ts';

const lineBytes = 32;

export class TextDump implements DumpPrinter {
  readonly #out: (text: string) => void;
  #state: NamedJournal['state'] = 'clean';

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  begin(name: string, { state, version, main }: NamedJournal, found: InspectedSlots): void {
    this.#state = state;
    this.#line(`image: ${name}`);
    this.#line(`journal: ${state}, version ${version}, ${main.lengthBytes} bytes at ${hex(main.hostOffset)}`);
    for (const slot of found.slots) this.#slot(slot, found.from);
    if (found.ring === undefined) return;
    const { hostOffset, lengthBytes, blockBytes } = found.ring;
    this.#line(`ring: ${lengthBytes} bytes at ${hex(hostOffset)}, in blocks of ${blockBytes}`);
  }

  #slot({ index, hostOffset, slot, error }: InspectedSlot, from: number | undefined): void {
    const title = `slot ${index} at ${hex(hostOffset)}`;
    if (slot === undefined) {
      this.#line(`${title}: not valid: ${error === undefined ? 'not read' : reason(error)}`);
      return;
    }
    this.#line(`${title}: valid${index === from ? ', the log is read from here' : ''}`);
    const { generation, blockSizeOrder, journalId, durableSequence } = slot;
    this.#line(
      `    generation ${generation}, blocks of ${2 ** blockSizeOrder}, journal id ${hex(journalId, 16)}`,
    );
    this.#line(
      `    tail: position ${hex(slot.tailPosition)}, sequence ${slot.tailSequence}, ` +
        `salt ${hex(slot.tailSalt, 16)}, chain ${hex(slot.tailChain, 8)}, durable through ${durableSequence}`,
    );
  }

  record({ header, hostOffset, error }: InspectedRecord, descriptors: Iterable<NamedDescriptor>): void {
    const blocks = count(header.lengthBlocks, 'block');
    this.#line(
      `record ${header.sequence} at position ${hex(header.position)} (${hex(hostOffset)}): ${blocks}` +
        (header.life ? ', first of a life' : ''),
    );
    this.#line(
      `    salt ${hex(header.salt, 16)}, chain ${hex(header.chain, 8)}, checksum ${hex(header.crc, 8)}, ` +
        `durable through ${header.durableThrough}`,
    );
    if (error !== undefined) this.#line(`    refused: ${reason(error)}`);
    for (const named of descriptors) {
      this.#line(`    ${descriptorText(named)}`);
      if (named.bytes !== undefined) this.#bytes(named.bytes);
    }
  }

  #bytes(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += lineBytes) {
      const line = hexDigits(bytes.subarray(at, at + lineBytes)).replaceAll(/.{8}(?!$)/g, '$& ');
      this.#line(`        ${at.toString(16).padStart(6, '0')}  ${line}`);
    }
  }

  end({ records, usedBytes, staleRecords, end, error }: InspectedLog): void {
    if (end !== undefined) this.#line(`end: ${endText(end)}`);
    this.#line(`live: ${count(records, 'record')}, ${usedBytes} bytes of the ring`);
    this.#line(`stale: ${count(staleRecords, 'valid record')} outside the chain`);
    if (error !== undefined) this.#line(`damage: ${reason(error)}`);
    else this.#line(this.#state === 'dirty' ? 'damage: none, recovery goes through' : 'damage: none');
  }

  #line(text: string): void {
    this.#out(`${text}\n`);
  }
}

/** Damage is an envelope; its cause says what is wrong in the bytes. */
function reason(error: Qcow2Error): string {
  return error.cause === undefined
    ? describeError(error)
    : `${describeError(error)}: ${describeError(error.cause)}`;
}

function endText({ sequence, position, hostOffset, stop }: InspectedEnd): string {
  const place = `position ${hex(position)} (${hex(hostOffset)}), where record ${sequence} is expected`;
  switch (stop) {
    case 'full':
      return `the ring is full; ${place}`;
    case 'no-record':
      return `no record at ${place}`;
    case 'other-record':
      return `a record that does not continue the chain at ${place}`;
    case 'torn':
      return `a torn record at ${place}`;
    case 'unreadable':
      return `the device can not be read at ${place}`;
  }
}

function descriptorText({ descriptor, belongsTo }: NamedDescriptor): string {
  const owner = belongsTo.map(belongingText).join(', ');
  const name = descriptor.type.replaceAll('-', ' ');
  switch (descriptor.type) {
    case 'inline-write':
      return `${name} of ${count(descriptor.bytes.length, 'byte')} at ${hex(descriptor.hostOffset)}: ${owner}`;
    case 'write-payload':
      return `${name} of ${count(descriptor.lengthBytes, 'byte')} at ${hex(descriptor.hostOffset)}: ${owner}`;
    case 'copy': {
      const { sourceHostOffset, targetHostOffset, lengthBytes } = descriptor;
      const fill = owner === '' ? '' : `fill of ${owner} from `;
      return `${name}: ${fill}host range ${range(sourceHostOffset, lengthBytes)} to ${range(targetHostOffset, lengthBytes)}`;
    }
    default:
      return `${name}: ${otherText(descriptor)}`;
  }
}

function otherText(descriptor: JournalDescriptor): string {
  switch (descriptor.type) {
    case 'guest-write':
      return `guest range ${range(descriptor.guestOffset, descriptor.lengthBytes)}`;
    case 'guest-settled': {
      const { guestOffset, lengthBytes, throughSequence } = descriptor;
      return `guest range ${range(guestOffset, lengthBytes)}, through record ${throughSequence}`;
    }
    case 'revoke':
      return `host range ${range(descriptor.hostOffset, descriptor.lengthBytes)}`;
    case 'fill-from-backing': {
      const { guestOffset, targetHostOffset, lengthBytes } = descriptor;
      return `fill of guest range ${range(guestOffset, lengthBytes)} to host range ${range(targetHostOffset, lengthBytes)}`;
    }
    case 'intent':
      return intentText(descriptor);
    case 'intent-done':
      return `${descriptor.intentId}`;
    case 'no-op':
      return count(descriptor.lengthBytes, 'byte');
    case 'unknown':
      return `type ${descriptor.number}, ${count(descriptor.body.length, 'byte')}`;
    default:
      return '';
  }
}

function intentText({ intentId, intentKind, body }: IntentDescriptor): string {
  const facts = intentFacts({ intentKind, body });
  if (facts === undefined) return `${intentId} of kind ${intentKind}, ${count(body.length, 'byte')}`;
  if (facts.kind === 'detachedTable') {
    const { l1Offset, l1Entries, countedFrom, countedTo } = facts;
    const counted = `guest clusters from ${countedFrom} to ${countedTo} count`;
    return `${intentId}: detached L1 table at ${hex(l1Offset)} of ${count(l1Entries * 8, 'byte')}, ${counted}`;
  }
  const { sizeBeforeBytes, sizeAfterBytes, reachBytes } = facts;
  return `${intentId}: grow from ${sizeBeforeBytes} to ${sizeAfterBytes} bytes, has come to ${reachBytes}`;
}

export function belongingText(piece: Belonging): string {
  switch (piece.kind) {
    case 'header':
      return `header: ${fieldsText(piece.fields)}`;
    case 'l1-entries':
      return several('L1 entry', 'L1 entries', piece.first, piece.last);
    case 'refcount-table-entries':
      return several('refcount table entry', 'refcount table entries', piece.first, piece.last);
    case 'l2-entries':
      return `L2 ${piece.count === 1 ? 'entry' : 'entries'} of guest range ${range(piece.guestOffset, piece.lengthBytes)}`;
    case 'refcounts':
      return several('refcount of cluster', 'refcount of clusters', piece.firstCluster, piece.lastCluster);
    case 'guest-range':
      return `guest range ${range(piece.guestOffset, piece.lengthBytes)}`;
    case 'host-range':
      return `host range ${range(piece.hostOffset, piece.lengthBytes)}`;
  }
}

const shownFields = 4;

function fieldsText(fields: readonly string[]): string {
  const words = fields.map((field) => field.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`));
  return words.length > shownFields ? `${words[0]} to ${words.at(-1)}` : words.join(', ');
}

function several(one: string, more: string, first: number, last: number): string {
  return first === last ? `${one} ${first}` : `${more} ${first}-${last}`;
}

function range(offset: number, lengthBytes: number): string {
  return `${hex(offset)}-${hex(offset + lengthBytes - 1)}`;
}

function count(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}

function hex(value: number | bigint, digits = 1): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
