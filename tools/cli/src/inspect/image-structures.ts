/**
 * Everything in an image that is neither guest data nor a table of entries, field by field: the header's cluster, the snapshot
 * table, the bitmap directory, the encryption header, the headers of a journal.
 *
 * The file as it stands is shown: a journal is not replayed. Structures come one at a time, so memory is bounded by the largest of
 * them; what reaches beyond the file is shown as far as there is something.
 */
import { type BlockDevice, readPadded } from '@qcow2/block-device';
import {
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  findHeaderExtension,
  luksSlotOffset,
  type Qcow2Header,
} from '@qcow2/codec';
import {
  bitmapFlagBits,
  bitmapHeadLayout,
  draftJournalHeaderLayout,
  FormatError,
  headerExtensionTypes,
  journalSlotLayout,
  luksConstants,
  luksHeadBytes,
  luksHeaderLayout,
  luksKeySlotLayout,
  Qcow2Error,
  qcow2Limits,
  snapshotExtraLayout,
  snapshotHeadLayout,
} from '@qcow2/spec';
import { boundJournal, slotPlaces } from '../journal-facts.ts';
import { formatSize } from '../sizes.ts';
import {
  bitNames,
  bytesField,
  type DecodedField,
  type DecodedStructure,
  decodedStructure,
} from './decoded-structure.ts';
import { headerStructures, paddedText, rawHeader, textOf, wordOf } from './header-structures.ts';

/** The first cluster's structures; they need no header that decodes. */
export async function* firstCluster(device: BlockDevice): AsyncGenerator<DecodedStructure> {
  const head = new Uint8Array(512);
  await readPadded(device, 0, head);
  const raw = rawHeader(head);
  const bytes = new Uint8Array(Math.min(raw.clusterBytes, Math.max(device.sizeBytes, head.length)));
  await readPadded(device, 0, bytes);
  yield* headerStructures(bytes, raw);
}

/** What a sound header leads to. A piece that can not be followed is a structure without fields, which says why. */
export async function* behindHeader(
  device: BlockDevice,
  header: Qcow2Header,
): AsyncGenerator<DecodedStructure> {
  yield* orProblem('snapshot table', 'SNP-001', snapshotEntries(device, header));
  yield* orProblem('bitmap directory', 'BMD-001', bitmapEntries(device, header));
  yield* orProblem('encryption header', 'FDE-001', luksHeader(device, header));
  yield* orProblem('journal', 'JRN-BIND-001', journalHeaders(device, header));
}

async function* orProblem(
  title: string,
  clause: string,
  structures: AsyncGenerator<DecodedStructure>,
): AsyncGenerator<DecodedStructure> {
  try {
    yield* structures;
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    const place = { hostOffset: error.context.hostOffset ?? 0, lengthBytes: 0 };
    const problem = { message: error.message, clause: error.context.clause };
    yield { title, ...place, document: 'qcow2', clause, fields: [], problem };
  }
}

/** Reads a table of entries of variable length in steps: an entry is never longer than what its lengths are bound to. */
class TableReader {
  readonly #device: BlockDevice;
  readonly #hostOffset: number;
  readonly #endsAt: number;

  constructor(device: BlockDevice, hostOffset: number, lengthBytes: number) {
    this.#device = device;
    this.#hostOffset = hostOffset;
    this.#endsAt = Math.min(hostOffset + lengthBytes, device.sizeBytes);
  }

  /** Bytes at a place of the table, as many of them as there are. */
  async at(position: number, lengthBytes: number): Promise<{ bytes: Uint8Array; hostOffset: number }> {
    const hostOffset = this.#hostOffset + position;
    const bytes = new Uint8Array(Math.max(0, Math.min(lengthBytes, this.#endsAt - hostOffset)));
    if (bytes.length > 0) await readPadded(this.#device, hostOffset, bytes);
    return { bytes, hostOffset };
  }
}

const padded = (lengthBytes: number): number => Math.ceil(lengthBytes / 8) * 8;

async function* snapshotEntries(device: BlockDevice, header: Qcow2Header): AsyncGenerator<DecodedStructure> {
  const { snapshotCount, snapshotsOffset, clusterBits } = header;
  const clusterBytes = 2 ** clusterBits;
  const table = new TableReader(device, snapshotsOffset, qcow2Limits.maxSnapshotTableBytes);
  const headBytes = snapshotHeadLayout.sizeBytes;
  let position = 0;
  for (let number = 1; number <= snapshotCount; number++) {
    const { bytes: head, hostOffset } = await table.at(position, headBytes);
    if (head.length < headBytes) throw cutOff('a snapshot table entry is cut off', hostOffset, 'SNP-018');
    const view = new DataView(head.buffer);
    const [idBytes, nameBytes, extraBytes] = [view.getUint16(12), view.getUint16(14), view.getUint32(36)];
    if (extraBytes > qcow2Limits.maxSnapshotExtraDataBytes) {
      throw cutOff('the extra data of a snapshot is above its limit', hostOffset, 'LIM-008');
    }
    const rest = await table.at(position + headBytes, extraBytes + idBytes + nameBytes);
    const idAt = extraBytes;
    const nameAt = idAt + idBytes;
    const extra = decodedStructure(snapshotExtraLayout, rest.bytes, {
      title: 'extra data',
      hostOffset: rest.hostOffset,
      endsAt: extraBytes,
    });
    const id = rest.bytes.subarray(idAt, nameAt);
    const name = rest.bytes.subarray(nameAt, nameAt + nameBytes);
    const place = (at: number, clause: string, text: Uint8Array) => {
      return { hostOffset: rest.hostOffset + at, clause, text: textOf(text) };
    };
    yield decodedStructure(snapshotHeadLayout, head, {
      title: `snapshot ${number} of ${snapshotCount}`,
      hostOffset,
      clusterBytes,
      meanings: {
        dateSeconds: (value) => new Date(Number(value) * 1000).toISOString(),
        vmStateLengthBytes32: (value) => formatSize(Number(value)),
      },
      more: [
        ...extra.fields,
        bytesField('id', id, place(idAt, 'SNP-004', id)),
        bytesField('name', name, place(nameAt, 'SNP-005', name)),
      ],
    });
    position = padded(position + headBytes + extraBytes + idBytes + nameBytes);
  }
}

async function* bitmapEntries(device: BlockDevice, header: Qcow2Header): AsyncGenerator<DecodedStructure> {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
  if (data === undefined) return;
  const clusterBytes = 2 ** header.clusterBits;
  const extension = decodeBitmapsExtension(data, { clusterBytes });
  const table = new TableReader(device, extension.directoryOffset, extension.directoryLengthBytes);
  const headBytes = bitmapHeadLayout.sizeBytes;
  let position = 0;
  for (let number = 1; number <= extension.bitmapCount; number++) {
    const { bytes: head, hostOffset } = await table.at(position, headBytes);
    if (head.length < headBytes) throw cutOff('a bitmap directory entry is cut off', hostOffset, 'BMD-015');
    const view = new DataView(head.buffer);
    const [nameBytes, extraBytes] = [view.getUint16(18), view.getUint32(20)];
    const nameAt = position + headBytes + extraBytes;
    const { bytes: name, hostOffset: nameOffset } = await table.at(nameAt, nameBytes);
    yield decodedStructure(bitmapHeadLayout, head, {
      title: `bitmap ${number} of ${extension.bitmapCount}`,
      hostOffset,
      clusterBytes,
      meanings: {
        flags: bitNames(bitmapFlagBits),
        granularityBits: (value) => (value < 64 ? formatSize(2 ** Number(value)) : undefined),
      },
      more: [bytesField('name', name, { hostOffset: nameOffset, clause: 'BMD-011', text: textOf(name) })],
    });
    position = padded(nameAt + nameBytes);
  }
}

async function* luksHeader(device: BlockDevice, header: Qcow2Header): AsyncGenerator<DecodedStructure> {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.fullDiskEncryption);
  if (data === undefined) return;
  const { headerOffset: hostOffset } = decodeEncryptionHeaderPointer(data, {
    clusterBytes: 2 ** header.clusterBits,
  });
  const bytes = new Uint8Array(luksHeadBytes);
  await readPadded(device, hostOffset, bytes);
  const head = decodedStructure(luksHeaderLayout, bytes, { title: 'LUKS header', hostOffset });
  yield { ...head, fields: head.fields.map(withText) };
  for (let slot = 0; slot < luksConstants.keySlots; slot++) {
    yield decodedStructure(luksKeySlotLayout, bytes, {
      title: `LUKS key slot ${slot}`,
      at: luksSlotOffset(slot),
      hostOffset,
      meanings: {
        state: wordOf({ active: luksConstants.keySlotActive, free: luksConstants.keySlotDisabled }),
      },
    });
  }
}

const luksTexts: ReadonlySet<string> = new Set(['cipherName', 'cipherMode', 'hashName', 'uuid']);

function withText(field: DecodedField): DecodedField {
  if (!luksTexts.has(field.name) || typeof field.value !== 'string') return field;
  return { ...field, meaning: JSON.stringify(paddedText(Buffer.from(field.value, 'hex'))) };
}

async function* journalHeaders(device: BlockDevice, header: Qcow2Header): AsyncGenerator<DecodedStructure> {
  if (header.draftJournal !== undefined) {
    const { hostOffset } = header.draftJournal;
    const bytes = new Uint8Array(draftJournalHeaderLayout.sizeBytes);
    await readPadded(device, hostOffset, bytes);
    yield decodedStructure(draftJournalHeaderLayout, bytes, { title: 'journal header (draft)', hostOffset });
    return;
  }
  const bound = boundJournal(header);
  if (bound === undefined) return;
  for (const [number, hostOffset] of (await slotPlaces(device, bound.main)).entries()) {
    const bytes = new Uint8Array(journalSlotLayout.sizeBytes);
    await readPadded(device, hostOffset, bytes);
    yield decodedStructure(journalSlotLayout, bytes, {
      title: `journal header slot ${number}`,
      hostOffset,
      meanings: { blockSizeOrder: (value) => formatSize(2 ** Number(value)) },
    });
  }
}

function cutOff(message: string, hostOffset: number, clause: string): FormatError {
  return new FormatError('TRUNCATED', message, { hostOffset, clause });
}
