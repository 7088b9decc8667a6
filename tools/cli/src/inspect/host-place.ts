/**
 * What the bytes at a host offset are: the cluster and its refcount, whoever refers to it, the field that stands there, the entries of
 * a table. A journal that is dirty counts as replayed for the references, not for the bytes that are shown.
 */
import { type BlockDevice, readPadded } from '@qcow2/block-device';
import { l2EntryBytes, l2FormatOf, type Qcow2Header } from '@qcow2/codec';
import { type HostReference, hostReferences } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import { belongingText } from '../journal-dump-text.ts';
import { MetadataMap } from '../metadata-map.ts';
import type { DecodedField, DecodedStructure } from './decoded-structure.ts';
import { behindHeader, firstCluster } from './image-structures.ts';
import { l2Entry } from './table-entries.ts';

export interface HostPlace {
  readonly hostOffset: number;
  readonly cluster: number;
  readonly inCluster: number;
  /** Undefined where the refcounts can not be read, or the offset is behind the end of the file. */
  readonly refcount: number | undefined;
  readonly isBehindEnd: boolean;
  /** In words; empty where nobody refers to the place. */
  readonly references: readonly string[];
  /** The fields of structures that the offset falls into. */
  readonly fields: readonly { readonly structure: DecodedStructure; readonly field: DecodedField }[];
  /** What an entry of a table there says. */
  readonly entry: string | undefined;
  /** Why the references could not be followed. */
  readonly problem: string | undefined;
}

const shownReferences = 64;

export async function hostPlace(
  device: BlockDevice,
  header: Qcow2Header,
  hostOffset: number,
): Promise<HostPlace> {
  const clusterBytes = 2 ** header.clusterBits;
  const cluster = Math.floor(hostOffset / clusterBytes);
  const references: string[] = [];
  let refcount: number | undefined;
  let problem: string | undefined;
  let isL2 = false;
  let left = 0;
  try {
    const image = await hostReferences(device);
    if (hostOffset < device.sizeBytes) refcount = await image.refcount(cluster);
    await image.visit((reference) => {
      const from = reference.hostOffset;
      if (hostOffset < from || hostOffset >= from + reference.lengthBytes) return;
      isL2 ||= reference.kind === 'l2Table';
      if (references.length < shownReferences) references.push(referenceText(reference, hostOffset));
      else left++;
    });
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    problem = error.message;
  }
  if (left > 0) references.push(`and ${left} more`);
  return {
    hostOffset,
    cluster,
    inCluster: hostOffset % clusterBytes,
    refcount,
    isBehindEnd: hostOffset >= device.sizeBytes,
    references,
    fields: await fieldsAt(device, header, hostOffset),
    entry: await entryAt(device, header, hostOffset, isL2),
    problem,
  };
}

function referenceText({ name, hostOffset, guestOffset, snapshotId }: HostReference, at: number): string {
  const inside = at - hostOffset;
  const words = [inside === 0 ? name : `byte ${inside} of ${name}`];
  if (guestOffset !== undefined) words.push(`guest offset 0x${guestOffset.toString(16)}`);
  if (snapshotId !== undefined) words.push(`in snapshot ${snapshotId}`);
  return words.join(', ');
}

async function fieldsAt(
  device: BlockDevice,
  header: Qcow2Header,
  hostOffset: number,
): Promise<{ structure: DecodedStructure; field: DecodedField }[]> {
  const found: { structure: DecodedStructure; field: DecodedField }[] = [];
  for (const structures of [firstCluster(device), behindHeader(device, header)]) {
    for await (const structure of structures) {
      for (const field of structure.fields) {
        const inside = hostOffset >= field.hostOffset && hostOffset < field.hostOffset + field.lengthBytes;
        if (inside) found.push({ structure, field });
      }
    }
  }
  return found;
}

async function entryAt(
  device: BlockDevice,
  header: Qcow2Header,
  hostOffset: number,
  isL2: boolean,
): Promise<string | undefined> {
  const read = async (at: number, into: Uint8Array): Promise<void> => {
    await readPadded(device, at, into);
  };
  const map = await MetadataMap.load(read, header);
  const [belonging] = map.name(hostOffset, 1);
  const isTable = belonging !== undefined && belonging.kind !== 'host-range' && belonging.kind !== 'header';
  const owner = isTable ? belongingText(belonging) : undefined;
  if (!isL2) return owner;
  const width = l2EntryBytes(l2FormatOf(header));
  const bytes = new Uint8Array(width);
  await readPadded(device, hostOffset - (hostOffset % width), bytes);
  const entry = l2Entry(new DataView(bytes.buffer), 0, header);
  const meaning = entry === undefined ? 'unallocated' : entry.meaning;
  return `${owner ?? 'L2 entry'}: ${meaning}`;
}
