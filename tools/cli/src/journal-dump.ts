/**
 * `journal dump`: the slots and records of a journal, as they stand, each change named by what it belongs to.
 *
 * Three parts: inspection (`@qcow2/journal`) says what stands there, a MetadataMap what a host range belongs to,
 * and a printer of either kind prints it at once: what is held is one record and its text, whatever the journal's size.
 */
import { type BlockDevice, readPadded, run } from '@qcow2/block-device';
import type { JournalDescriptor, JournalRecord, Qcow2Header } from '@qcow2/codec';
import { servedIntentKinds } from '@qcow2/driver';
import {
  type InspectedLog,
  type InspectedRecord,
  type InspectedSlots,
  inspectLog,
  type LogVisitor,
} from '@qcow2/journal';
import type { NamedJournal } from './journal-facts.ts';
import { type Belonging, MetadataMap } from './metadata-map.ts';

/** A descriptor, and what can be said of it only with the rest of the image and its record at hand. */
export interface NamedDescriptor {
  readonly descriptor: JournalDescriptor;
  /** What the host range that it writes, or copies to, belongs to; empty where it writes none, or nobody knows. */
  readonly belongsTo: readonly Belonging[];
  /** The bytes that it brings; undefined where they are not asked for, or it brings none. */
  readonly bytes?: Uint8Array | undefined;
}

/** Where a dump goes, in this order. */
export interface DumpPrinter {
  begin(name: string, journal: NamedJournal, found: InspectedSlots): void;
  record(found: InspectedRecord, descriptors: Iterable<NamedDescriptor>): void;
  end(log: InspectedLog): void;
}

export interface DumpSource {
  readonly name: string;
  readonly device: BlockDevice;
  readonly header: Qcow2Header;
  readonly journal: NamedJournal;
  /** Bytes too, not only where they go. */
  readonly payload: boolean;
  /** Wait until what was printed has been taken. */
  drained(): Promise<void>;
}

/** Go through the journal once, from its slots to its end. Reads only. */
export async function dumpJournal(source: DumpSource, printer: DumpPrinter): Promise<void> {
  const { device, header, journal } = source;
  const read = async (at: number, into: Uint8Array): Promise<void> => await readPadded(device, at, into);
  const map = await MetadataMap.load(read, header);
  const visitor: LogVisitor = {
    slots: (found) => printer.begin(source.name, journal, found),
    record: async (found) => {
      // First what the record changes, then the names: its own L1 entry names its new L2 table.
      if (found.record !== undefined) await noteWrites(map, found.record);
      printer.record(found, named(map, found.record, source.payload));
      await source.drained();
    },
  };
  printer.end(await run(inspectLog(device, journal.main, visitor, servedIntentKinds)));
}

async function noteWrites(map: MetadataMap, record: JournalRecord): Promise<void> {
  for (const { hostOffset, bytes } of hostWrites(record)) await map.note(hostOffset, bytes);
  // An L2 table may have come to its place with an entry that stands further on.
  for (const { hostOffset, bytes } of hostWrites(record)) map.noteEntries(hostOffset, bytes);
}

function* hostWrites(record: JournalRecord): Generator<{ hostOffset: number; bytes: Uint8Array }> {
  for (const descriptor of record.descriptors) {
    const bytes = bytesOf(record, descriptor);
    if (bytes !== undefined && 'hostOffset' in descriptor) yield { hostOffset: descriptor.hostOffset, bytes };
  }
}

function* named(
  map: MetadataMap,
  record: JournalRecord | undefined,
  payload: boolean,
): Generator<NamedDescriptor> {
  for (const descriptor of record?.descriptors ?? []) {
    const bytes = record === undefined ? undefined : bytesOf(record, descriptor);
    yield { descriptor, belongsTo: belongsTo(map, descriptor, bytes), bytes: payload ? bytes : undefined };
  }
}

function belongsTo(
  map: MetadataMap,
  descriptor: JournalDescriptor,
  bytes: Uint8Array | undefined,
): readonly Belonging[] {
  if (descriptor.type === 'copy') return map.nameData(descriptor.targetHostOffset, descriptor.lengthBytes);
  return bytes !== undefined && 'hostOffset' in descriptor
    ? map.name(descriptor.hostOffset, bytes.length)
    : [];
}

function bytesOf(record: JournalRecord, descriptor: JournalDescriptor): Uint8Array | undefined {
  switch (descriptor.type) {
    case 'inline-write':
      return descriptor.bytes;
    case 'write-payload':
    case 'guest-write': {
      const { payloadOffset, lengthBytes } = descriptor;
      return record.payload.subarray(payloadOffset, payloadOffset + lengthBytes);
    }
    default:
      return undefined;
  }
}

/** Bytes in hexadecimal digits; `toHex` of Uint8Array is younger than the oldest Node served. */
export function hexDigits(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}
