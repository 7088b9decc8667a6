/**
 * `journal dump` of the profile draft-2013: the journal's header and every committed transaction that is not synced,
 * each range named by what it belongs to, for people and for programs. Held are one transaction and its text.
 *
 * It follows the chain with recovery's own steps, so what it says of damage is what recovery would say.
 */
import { type BlockDevice, readPadded, run, type Task, wait } from '@qcow2/block-device';
import type { DraftBinding, Qcow2Header } from '@qcow2/codec';
import { type DraftDescriptor, draftChunkBytes } from '@qcow2/codec/journal/draft-2013';
import {
  type ChainEnds,
  type DraftArea,
  type FoundTransaction,
  readDraftArea,
  refuseTransaction,
  walkDraftChain,
} from '@qcow2/journal';
import { Qcow2Error } from '@qcow2/spec';
import { describeError } from './failures.ts';
import { hexDigits } from './journal-dump.ts';
import { belongingJson, errorJson, members } from './journal-dump-json.ts';
import { belongingText } from './journal-dump-text.ts';
import { type JsonValue, jsonText } from './json-text.ts';
import { type Belonging, MetadataMap } from './metadata-map.ts';

export interface DraftDumpSource {
  readonly name: string;
  readonly device: BlockDevice;
  readonly header: Qcow2Header;
  readonly binding: DraftBinding;
  /** Bytes too, not only where they go. */
  readonly payload: boolean;
  /** Wait until what was printed has been taken. */
  drained(): Promise<void>;
}

type JsonObject = { readonly [key: string]: JsonValue | undefined };

/** One repetition of a descriptor, and what can be said of it only with the rest of the image at hand. */
interface Piece {
  readonly type: DraftDescriptor['type'];
  readonly hostOffset?: number;
  readonly sourceHostOffset?: number;
  readonly sizeBytes: number;
  /** Journal block in which the bytes begin. */
  readonly blockIndex?: number;
  /** Of a type that nobody defined. */
  readonly number?: number;
  readonly belongsTo: readonly Belonging[];
  readonly bytes?: Uint8Array | undefined;
}

interface Printer {
  begin(source: DraftDumpSource, area: DraftArea): void;
  transaction(found: FoundTransaction, pieces: readonly Piece[], refused: Qcow2Error | undefined): void;
  end(source: DraftDumpSource, ends: ChainEnds | undefined, damage: Qcow2Error | undefined): void;
}

/** Go through the journal once. Reads only. */
export async function dumpDraftJournal(
  source: DraftDumpSource,
  format: 'human' | 'json',
  out: (text: string) => void,
): Promise<void> {
  const { device, header, binding } = source;
  const read = async (at: number, into: Uint8Array): Promise<void> => await readPadded(device, at, into);
  const map = await MetadataMap.load(read, header);
  const area = await run(readDraftArea(device, binding.hostOffset, 2 ** header.clusterBits));
  const printer = format === 'json' ? new JsonPrinter(out) : new TextPrinter(out);
  printer.begin(source, area);
  let damage: Qcow2Error | undefined;
  let ends: ChainEnds | undefined;
  const show = function* (found: FoundTransaction): Task<void> {
    const refused = refusalOf(found, area, device.sizeBytes);
    damage ??= refused;
    yield* wait(noteWrites(map, found));
    const { descriptors } = found.transaction;
    const pieces = descriptors.flatMap((descriptor) => piecesOf(map, found, descriptor, source.payload));
    printer.transaction(found, pieces, refused);
    yield* wait(source.drained());
  };
  try {
    ends = await run(walkDraftChain(device, area, show, () => undefined));
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    damage ??= error;
  }
  printer.end(source, ends, damage);
}

function refusalOf(found: FoundTransaction, area: DraftArea, fileBytes: number): Qcow2Error | undefined {
  try {
    refuseTransaction(found, area, fileBytes);
    return undefined;
  } catch (error) {
    if (error instanceof Qcow2Error) return error;
    throw error;
  }
}

async function noteWrites(map: MetadataMap, { transaction, place }: FoundTransaction): Promise<void> {
  for (const descriptor of transaction.descriptors) {
    if (descriptor.type !== 'write-data') continue;
    for (const chunk of descriptor.chunks) {
      await map.note(chunk.hostOffset, draftChunkBytes(transaction, chunk, place));
    }
  }
}

function piecesOf(
  map: MetadataMap,
  { transaction, place }: FoundTransaction,
  descriptor: DraftDescriptor,
  payload: boolean,
): Piece[] {
  const { type } = descriptor;
  switch (type) {
    case 'write-data':
      return descriptor.chunks.map((chunk) => ({
        type,
        hostOffset: chunk.hostOffset,
        sizeBytes: chunk.lengthBytes,
        blockIndex: chunk.journalBlockIndex,
        belongsTo: map.name(chunk.hostOffset, chunk.lengthBytes),
        bytes: payload ? draftChunkBytes(transaction, chunk, place) : undefined,
      }));
    case 'copy-data':
      return descriptor.chunks.map(({ targetHostOffset, sourceHostOffset, lengthBytes }) => ({
        type,
        hostOffset: targetHostOffset,
        sourceHostOffset,
        sizeBytes: lengthBytes,
        belongsTo: map.name(targetHostOffset, lengthBytes),
      }));
    case 'revoke':
      return descriptor.ranges.map(({ hostOffset, lengthBytes }) => ({
        type,
        hostOffset,
        sizeBytes: lengthBytes,
        belongsTo: map.name(hostOffset, lengthBytes),
      }));
    case 'no-op':
      return [{ type, sizeBytes: descriptor.body.length, belongsTo: [] }];
    case 'unknown':
      return [{ type, number: descriptor.number, sizeBytes: descriptor.body.length, belongsTo: [] }];
  }
}

class TextPrinter implements Printer {
  readonly #out: (text: string) => void;

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  begin({ name, binding }: DraftDumpSource, { hostOffset, header, ring }: DraftArea): void {
    const state = binding.dirty ? 'dirty' : 'clean';
    const { journalLengthBytes, syncedSequence, syncedIndex, committedSequence } = header;
    this.#line(`image: ${name}`);
    this.#line(`journal: ${state}, profile draft-2013, ${journalLengthBytes} bytes at ${hex(hostOffset)}`);
    this.#line(
      `header: synced through transaction ${syncedSequence} (block ${syncedIndex}), committed through ${committedSequence}`,
    );
    const blocks = count(ring.lengthBytes / ring.blockBytes, 'block');
    this.#line(`ring: ${blocks} of ${ring.blockBytes} bytes at ${hex(ring.hostOffset)}`);
  }

  transaction(
    { transaction, place }: FoundTransaction,
    pieces: readonly Piece[],
    refused?: Qcow2Error,
  ): void {
    const blocks = count(1 + transaction.data.length / place.blockBytes, 'block');
    const at = `block ${place.blockIndex} (${hex(place.hostOffset)})`;
    this.#line(`transaction ${transaction.sequence} at ${at}: ${blocks}`);
    if (refused !== undefined) this.#line(`    refused: ${reason(refused)}`);
    for (const piece of pieces) {
      this.#line(`    ${pieceText(piece)}`);
      if (piece.bytes !== undefined) this.#line(`        ${hexDigits(piece.bytes)}`);
    }
  }

  end({ binding }: DraftDumpSource, ends: ChainEnds | undefined, damage: Qcow2Error | undefined): void {
    if (ends !== undefined) {
      this.#line(
        `live: ${count(ends.transactions, 'transaction')}, ${count(ends.dataBytes, 'byte')} of data blocks`,
      );
    }
    if (damage !== undefined) this.#line(`damage: ${reason(damage)}`);
    else this.#line(binding.dirty ? 'damage: none, recovery goes through' : 'damage: none');
  }

  #line(text: string): void {
    this.#out(`${text}\n`);
  }
}

function pieceText({
  type,
  hostOffset = 0,
  sourceHostOffset = 0,
  sizeBytes,
  number,
  belongsTo,
}: Piece): string {
  const size = count(sizeBytes, 'byte');
  const owner = belongsTo.map(belongingText).join(', ');
  switch (type) {
    case 'write-data':
      return `write data of ${size} at ${hex(hostOffset)}: ${owner}`;
    case 'copy-data':
      return `copy data of ${size} from ${hex(sourceHostOffset)} to ${hex(hostOffset)}: ${owner}`;
    case 'revoke':
      return `revoke of ${size} at ${hex(hostOffset)}: ${owner}`;
    case 'no-op':
      return `no op of ${size}`;
    case 'unknown':
      return `type ${number} of ${size}`;
  }
}

/** One JSON object, written piece by piece. Its shape stands in README.md. */
class JsonPrinter implements Printer {
  readonly #out: (text: string) => void;
  #transactions = 0;

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  begin({ name, binding }: DraftDumpSource, { hostOffset, header, ring }: DraftArea): void {
    const head: JsonObject = {
      filename: name,
      profile: 'draft-2013',
      state: binding.dirty ? 'dirty' : 'clean',
      'host-offset': hostOffset,
      size: header.journalLengthBytes,
      'synced-index': header.syncedIndex,
      'synced-sequence': header.syncedSequence,
      'committed-sequence': header.committedSequence,
      ring: { 'host-offset': ring.hostOffset, size: ring.lengthBytes, 'block-size': ring.blockBytes },
    };
    this.#out(`{\n${members(head, 1)},\n    "transactions": [`);
  }

  transaction(
    { transaction, place }: FoundTransaction,
    pieces: readonly Piece[],
    refused?: Qcow2Error,
  ): void {
    const value: JsonObject = {
      sequence: transaction.sequence,
      block: place.blockIndex,
      'host-offset': place.hostOffset,
      blocks: 1 + transaction.data.length / place.blockBytes,
      error: refused === undefined ? undefined : errorJson(refused),
      descriptors: pieces.map(pieceJson),
    };
    this.#out(`${this.#transactions++ === 0 ? '' : ','}\n        ${jsonText(value, 2)}`);
  }

  end(_source: DraftDumpSource, ends: ChainEnds | undefined, damage: Qcow2Error | undefined): void {
    const tail: JsonObject = {
      'live-transactions': this.#transactions,
      'data-size': ends?.dataBytes,
      damage: damage === undefined ? undefined : errorJson(damage),
    };
    this.#out(`\n    ],\n${members(tail, 1)}\n}\n`);
  }
}

function pieceJson(piece: Piece): JsonObject {
  return {
    type: piece.type,
    number: piece.number,
    'host-offset': piece.hostOffset,
    'source-host-offset': piece.sourceHostOffset,
    size: piece.sizeBytes,
    block: piece.blockIndex,
    'belongs-to': piece.belongsTo.length === 0 ? undefined : piece.belongsTo.map(belongingJson),
    bytes: piece.bytes === undefined ? undefined : hexDigits(piece.bytes),
  };
}

function reason(error: Qcow2Error): string {
  return error.cause === undefined
    ? describeError(error)
    : `${describeError(error)}: ${describeError(error.cause)}`;
}

function count(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}

const hex = (value: number): string => `0x${value.toString(16)}`;
