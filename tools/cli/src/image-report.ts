/**
 * Facts about an image as JSON members and as text for people, both of qemu-img's shape. qemu-img prints
 * dictionaries in the order of a hash table; the members below stand in that order, found by asking it.
 * The journal's section is ours, and stands last in the format's own data.
 */
import type {
  BackingFacts,
  BitmapFacts,
  ImageFacts,
  JournalFacts,
  Qcow2Facts,
  SnapshotFacts,
  VmdkReport,
} from './image-facts.ts';
import type { JsonValue } from './json-text.ts';
import type { LuksFacts } from './luks-facts.ts';
import { formatSize } from './sizes.ts';

/** What a report is made of; what is undefined is not shown. */
export type JsonObject = { readonly [key: string]: JsonValue | undefined };

export function imageJson(facts: ImageFacts): JsonObject {
  const { qcow2 } = facts;
  const backing: BackingFacts = qcow2 ?? facts.vmdk ?? {};
  return {
    'backing-filename-format': backing.backingFormat,
    snapshots:
      qcow2 === undefined || qcow2.snapshots.length === 0 ? undefined : qcow2.snapshots.map(snapshotJson),
    'virtual-size': facts.virtualSizeBytes,
    filename: facts.path,
    'cluster-size': qcow2?.clusterBytes ?? facts.clusterBytes,
    format: facts.format,
    'actual-size': facts.diskBytes,
    'format-specific': formatSpecific(facts),
    'full-backing-filename': backing.fullBackingFile,
    encrypted: qcow2?.encryption === undefined ? undefined : true,
    'backing-filename': backing.backingFile,
    'dirty-flag': facts.hasInfo === false ? undefined : (qcow2?.dirty ?? false),
  };
}

function formatSpecific({ qcow2, vmdk }: ImageFacts): JsonObject | undefined {
  if (qcow2 !== undefined) return { type: 'qcow2', data: specificJson(qcow2) };
  return vmdk === undefined ? undefined : { type: 'vmdk', data: vmdkJson(vmdk) };
}

function vmdkJson({ cid, parentCid, createType, extents }: VmdkReport): JsonObject {
  return {
    cid,
    'parent-cid': parentCid,
    'create-type': createType,
    extents: extents.map((extent) => ({
      compressed: extent.compressed,
      'virtual-size': extent.virtualSizeBytes,
      filename: extent.path,
      'cluster-size': extent.clusterBytes,
      format: extent.type,
    })),
  };
}

/** The lines of one image, without an empty line after them; each ends with a line break. */
export function imageText(facts: ImageFacts): string {
  const { qcow2 } = facts;
  const lines = [
    `image: ${facts.path}`,
    `file format: ${facts.format}`,
    `virtual size: ${formatSize(facts.virtualSizeBytes)} (${facts.virtualSizeBytes} bytes)`,
    `disk size: ${facts.diskBytes === undefined ? 'unavailable' : formatSize(facts.diskBytes)}`,
  ];
  if (facts.clusterBytes !== undefined) lines.push(`cluster_size: ${facts.clusterBytes}`);
  if (qcow2 !== undefined) {
    if (qcow2.encryption !== undefined) lines.push('encrypted: yes');
    lines.push(`cluster_size: ${qcow2.clusterBytes}`);
    if (qcow2.dirty) lines.push('cleanly shut down: no');
    lines.push(...backingText(qcow2), ...snapshotsText(qcow2.snapshots));
    lines.push('Format specific information:', ...treeText(specificJson(qcow2), 1));
  }
  const { vmdk } = facts;
  if (vmdk !== undefined) {
    lines.push(...backingText(vmdk), 'Format specific information:', ...treeText(vmdkJson(vmdk), 1));
  }
  return `${lines.join('\n')}\n`;
}

function specificJson(qcow2: Qcow2Facts): JsonObject {
  const version3 = <T>(value: T): T | undefined => (qcow2.version >= 3 ? value : undefined);
  return {
    compat: qcow2.version === 2 ? '0.10' : '1.1',
    'compression-type': qcow2.compressionType,
    'lazy-refcounts': version3(qcow2.lazyRefcounts),
    bitmaps: qcow2.bitmaps.length === 0 ? undefined : qcow2.bitmaps.map(bitmapJson),
    'refcount-bits': qcow2.refcountBits,
    'data-file': qcow2.dataFile,
    encrypt: encryptionJson(qcow2.encryption),
    'data-file-raw': qcow2.dataFileRaw,
    corrupt: version3(qcow2.corrupt),
    'extended-l2': version3(qcow2.extendedL2),
    journal: qcow2.journal === undefined ? undefined : journalJson(qcow2.journal),
  };
}

function snapshotJson(snapshot: SnapshotFacts): JsonObject {
  return {
    icount: snapshot.instructionCount,
    'vm-clock-nsec': snapshot.vmClockNanoseconds % 1_000_000_000n,
    name: snapshot.name,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': snapshot.vmClockNanoseconds / 1_000_000_000n,
    id: snapshot.id,
    'vm-state-size': snapshot.vmStateBytes,
  };
}

function bitmapJson(bitmap: BitmapFacts): JsonObject {
  const flags = [...(bitmap.inUse ? ['in-use'] : []), ...(bitmap.auto ? ['auto'] : [])];
  return { flags, name: bitmap.name, granularity: bitmap.granularityBytes };
}

function encryptionJson(encryption: 'aes' | LuksFacts | undefined): JsonObject | undefined {
  if (encryption === undefined) return undefined;
  if (encryption === 'aes') return { format: 'aes' };
  return {
    'ivgen-alg': encryption.ivGenerator,
    'hash-alg': encryption.hash,
    'cipher-alg': encryption.cipherAlgorithm,
    uuid: encryption.uuid,
    'ivgen-hash-alg': encryption.ivHash,
    format: 'luks',
    'cipher-mode': encryption.cipherMode,
    slots: encryption.slots.map((slot) => ({
      active: slot.active,
      iters: slot.active ? slot.iterations : undefined,
      'key-offset': slot.keyOffset,
      stripes: slot.active ? slot.stripes : undefined,
    })),
    'payload-offset': encryption.payloadOffset,
    'master-key-iters': encryption.masterKeyIterations,
  };
}

/** Also what `journal info` prints by itself. */
export function journalJson(journal: JournalFacts): JsonObject {
  return {
    version: journal.version,
    profile: journal.profile,
    state: journal.state,
    'host-offset': journal.hostOffset,
    size: journal.lengthBytes,
    'block-size': journal.blockBytes,
    'ring-size': journal.ringBytes,
    'ring-used': journal.usedBytes,
    records: journal.records,
    'synced-sequence': journal.syncedSequence,
    'committed-sequence': journal.committedSequence,
  };
}

function backingText({ backingFile, fullBackingFile, backingFormat }: BackingFacts): string[] {
  if (backingFile === undefined) return [];
  const elsewhere =
    fullBackingFile === undefined
      ? ' (cannot determine actual path)'
      : fullBackingFile === backingFile
        ? ''
        : ` (actual path: ${fullBackingFile})`;
  return [
    `backing file: ${backingFile}${elsewhere}`,
    ...(backingFormat === undefined ? [] : [`backing file format: ${backingFormat}`]),
  ];
}

/** What `info` and `snapshot -l` show; nothing where there is none. */
export function snapshotsText(snapshots: readonly SnapshotFacts[]): string[] {
  if (snapshots.length === 0) return [];
  const header = snapshotRow('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT');
  return [
    'Snapshot list:',
    header,
    ...snapshots.map((snapshot) =>
      snapshotRow(
        snapshot.id,
        snapshot.name,
        formatSize(Number(snapshot.vmStateBytes)),
        localDate(snapshot.dateSeconds),
        clock(snapshot.vmClockNanoseconds),
        snapshot.instructionCount === undefined ? '' : String(snapshot.instructionCount),
      ),
    ),
  ];
}

function snapshotRow(
  id: string,
  tag: string,
  size: string,
  date: string,
  time: string,
  count: string,
): string {
  return `${id.padEnd(9)} ${tag.padEnd(16)} ${size.padStart(8)}${date.padStart(20)}${time.padStart(13)}${count.padStart(11)}`;
}

function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number) => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function clock(nanoseconds: bigint): string {
  const milliseconds = Number((nanoseconds / 1_000_000n) % 1000n);
  const seconds = nanoseconds / 1_000_000_000n;
  const two = (value: bigint) => String(value).padStart(2, '0');
  const whole = `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${two(seconds % 60n)}`;
  return `${whole}.${String(milliseconds).padStart(3, '0')}`;
}

/**
 * A tree of values as qemu-img's indented text: dashes in names become blanks, lists are numbered, and a
 * list or object goes on below its name. Also `journal info` for people.
 */
export function treeText(tree: JsonObject, depth: number): string[] {
  const indent = '    '.repeat(depth);
  return Object.entries(tree).flatMap(([key, value]) =>
    value === undefined ? [] : nodeText(`${indent}${key.replaceAll('-', ' ')}:`, value, depth),
  );
}

function nodeText(head: string, value: JsonValue, depth: number): string[] {
  if (typeof value !== 'object') return [`${head} ${value}`];
  if (!isList(value)) return [head, ...treeText(value, depth + 1)];
  const indent = '    '.repeat(depth + 1);
  return [head, ...value.flatMap((item, at) => nodeText(`${indent}[${at}]:`, item, depth + 1))];
}

/** `Array.isArray`, which does not narrow read-only arrays. */
function isList(value: object): value is readonly JsonValue[] {
  return Array.isArray(value);
}
