/**
 * A journal dump for programs: one JSON object, written piece by piece, so that a journal of any size passes
 * through. Its shape stands in README.md. 64-bit masks are hexadecimal strings: JSON's numbers end at 2^53.
 */
import type { IntentDescriptor, JournalDescriptor, JournalSlot } from '@qcow2/codec';
import type { InspectedLog, InspectedRecord, InspectedSlot, InspectedSlots } from '@qcow2/journal';
import type { Qcow2Error } from '@qcow2/spec';
import { intentFacts } from './intent-facts.ts';
import { type DumpPrinter, hexDigits, type NamedDescriptor } from './journal-dump.ts';
import type { NamedJournal } from './journal-facts.ts';
import { type JsonValue, jsonText } from './json-text.ts';
import type { Belonging } from './metadata-map.ts';

type JsonObject = { readonly [key: string]: JsonValue | undefined };

export class JsonDump implements DumpPrinter {
  readonly #out: (text: string) => void;
  #records = 0;

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  begin(name: string, { state, version, main }: NamedJournal, found: InspectedSlots): void {
    const head: JsonObject = {
      filename: name,
      version,
      state,
      'host-offset': main.hostOffset,
      size: main.lengthBytes,
      slots: found.slots.map((slot) => slotJson(slot, found.from)),
      ring:
        found.ring === undefined
          ? undefined
          : {
              'host-offset': found.ring.hostOffset,
              size: found.ring.lengthBytes,
              'block-size': found.ring.blockBytes,
            },
    };
    this.#out(`{\n${members(head, 1)},\n    "records": [\n`);
  }

  record(found: InspectedRecord, descriptors: Iterable<NamedDescriptor>): void {
    const { header } = found;
    const head: JsonObject = {
      sequence: header.sequence,
      position: header.position,
      'host-offset': found.hostOffset,
      blocks: header.lengthBlocks,
      life: header.life,
      salt: hex(header.salt, 16),
      chain: hex(header.chain, 8),
      checksum: hex(header.crc, 8),
      'durable-through': header.durableThrough,
      'payload-size': header.payloadLengthBytes,
      error: found.error === undefined ? undefined : errorJson(found.error),
    };
    const indent = '        ';
    this.#out(`${this.#records++ === 0 ? '' : ',\n'}${indent}{\n${members(head, 3)},\n`);
    this.#out(`${indent}    "descriptors": [\n`);
    let count = 0;
    for (const named of descriptors) {
      this.#out(`${count++ === 0 ? '' : ',\n'}${indent}        ${jsonText(descriptorJson(named), 4)}`);
    }
    this.#out(`${count === 0 ? '' : '\n'}${indent}    ]\n${indent}}`);
  }

  end(log: InspectedLog): void {
    const { end, error } = log;
    const tail: JsonObject = {
      'live-records': log.records,
      'ring-used': log.usedBytes,
      'stale-records': log.staleRecords,
      end:
        end === undefined
          ? undefined
          : {
              reason: end.stop,
              sequence: end.sequence,
              position: end.position,
              'host-offset': end.hostOffset,
            },
      damage: error === undefined ? undefined : errorJson(error),
    };
    this.#out(`${this.#records === 0 ? '' : '\n'}    ],\n${members(tail, 1)}\n}\n`);
  }
}

/** The members of an object, without its braces. */
export function members(object: JsonObject, depth: number): string {
  const indent = '    '.repeat(depth);
  return Object.entries(object)
    .filter((member): member is [string, JsonValue] => member[1] !== undefined)
    .map(([key, value]) => `${indent}${jsonText(key)}: ${jsonText(value, depth)}`)
    .join(',\n');
}

function slotJson(found: InspectedSlot, from: number | undefined): JsonObject {
  const { index, slot, error } = found;
  return {
    index,
    'host-offset': found.hostOffset,
    valid: slot !== undefined,
    ruling: index === from,
    error: error === undefined ? undefined : errorJson(error),
    ...(slot === undefined ? {} : slotFields(slot)),
  };
}

function slotFields(slot: JournalSlot): JsonObject {
  return {
    generation: slot.generation,
    'block-size': 2 ** slot.blockSizeOrder,
    'journal-id': hex(slot.journalId, 16),
    'tail-position': slot.tailPosition,
    'tail-sequence': slot.tailSequence,
    'tail-salt': hex(slot.tailSalt, 16),
    'tail-chain': hex(slot.tailChain, 8),
    'durable-sequence': slot.durableSequence,
  };
}

/** The innermost cause says what is wrong in the bytes. */
export function errorJson(error: Qcow2Error): JsonObject {
  const cause = error.cause instanceof Error ? error.cause.message : undefined;
  return { code: error.code, message: error.message, cause };
}

function descriptorJson({ descriptor, belongsTo, bytes }: NamedDescriptor): JsonObject {
  return {
    type: descriptor.type,
    ...descriptorFields(descriptor),
    'belongs-to': belongsTo.length === 0 ? undefined : belongsTo.map(belongingJson),
    bytes: bytes === undefined ? undefined : hexDigits(bytes),
  };
}

function descriptorFields(descriptor: JournalDescriptor): JsonObject {
  switch (descriptor.type) {
    case 'inline-write':
      return { 'host-offset': descriptor.hostOffset, size: descriptor.bytes.length };
    case 'write-payload':
    case 'revoke':
      return { 'host-offset': descriptor.hostOffset, size: descriptor.lengthBytes };
    case 'guest-write':
      return { 'guest-offset': descriptor.guestOffset, size: descriptor.lengthBytes };
    case 'guest-settled':
      return {
        'guest-offset': descriptor.guestOffset,
        size: descriptor.lengthBytes,
        'through-sequence': descriptor.throughSequence,
      };
    case 'copy':
      return {
        'host-offset': descriptor.targetHostOffset,
        'source-host-offset': descriptor.sourceHostOffset,
        size: descriptor.lengthBytes,
      };
    case 'fill-from-backing':
      return {
        'host-offset': descriptor.targetHostOffset,
        'guest-offset': descriptor.guestOffset,
        size: descriptor.lengthBytes,
      };
    case 'intent':
      return intentJson(descriptor);
    case 'intent-done':
      return { 'intent-id': descriptor.intentId };
    case 'no-op':
      return { size: descriptor.lengthBytes };
    case 'unknown':
      return { number: descriptor.number, size: descriptor.body.length };
  }
}

function intentJson({ intentId, intentKind, body }: IntentDescriptor): JsonObject {
  const facts = intentFacts({ intentKind, body });
  const common = { 'intent-kind': intentKind, 'intent-id': intentId };
  if (facts === undefined) return { ...common, size: body.length };
  if (facts.kind === 'detachedTable') {
    return {
      ...common,
      operation: 'detached-table',
      'host-offset': facts.l1Offset,
      entries: facts.l1Entries,
      'counted-from': facts.countedFrom,
      'counted-to': facts.countedTo,
    };
  }
  const { sizeBeforeBytes, sizeAfterBytes, reachBytes } = facts;
  return {
    ...common,
    operation: 'grow',
    'size-before': sizeBeforeBytes,
    'size-after': sizeAfterBytes,
    reach: reachBytes,
  };
}

export function belongingJson(piece: Belonging): JsonObject {
  switch (piece.kind) {
    case 'header':
      return { kind: piece.kind, fields: piece.fields };
    case 'l1-entries':
    case 'refcount-table-entries':
      return { kind: piece.kind, first: piece.first, last: piece.last };
    case 'l2-entries':
      return {
        kind: piece.kind,
        count: piece.count,
        'guest-offset': piece.guestOffset,
        size: piece.lengthBytes,
      };
    case 'refcounts':
      return { kind: piece.kind, 'first-cluster': piece.firstCluster, 'last-cluster': piece.lastCluster };
    case 'guest-range':
      return { kind: piece.kind, 'guest-offset': piece.guestOffset, size: piece.lengthBytes };
    case 'host-range':
      return { kind: piece.kind, 'host-offset': piece.hostOffset, size: piece.lengthBytes };
  }
}

function hex(value: number | bigint, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
