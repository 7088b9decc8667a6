/**
 * The `-o` options of `create`, as data: what there is, in the order in which "Formatting …" echoes it, and
 * what is known to QEMU and refused here. Then the rules that hold between them, in the order in which
 * qemu-img checks them and in its words.
 */
import { isUsableGeometry, journalGeometry } from '@qcow2/codec';
import {
  defaultDraftBlockBytes,
  defaultJournalBytes,
  type JournalProfile,
  minNewDraftBlocks,
} from '@qcow2/driver';
import { journalV1Limits } from '@qcow2/spec';
import { type EncryptionSettings, encryptionOptions, encryptionSettings } from './encryption-options.ts';
import { CommandFailure } from './failures.ts';
import { protocolOf } from './file-name.ts';
import { escapeCommas, type ListedOption, type OptionValues } from './option-list.ts';
import type { SpaceReservation } from './preallocation.ts';

const notYet = 'not supported yet';

const sizeOption: ListedOption = { name: 'size', type: 'size', help: 'Virtual disk size' };

/** What the format knows; the file that it is made in knows more. */
export const rawOptions: readonly ListedOption[] = [sizeOption];

export const rawFileOptions: readonly ListedOption[] = [
  sizeOption,
  {
    name: 'preallocation',
    type: 'string',
    help: 'Preallocation mode (allowed values: off, falloc, full)',
  },
];

/** In the order of the "Formatting" line. */
export const qcow2Options: readonly ListedOption[] = [
  refusedText('encryption', 'bool', ['off', 'no', 'false', 'n']),
  ...encryptionOptions,
  { name: 'cluster_size', type: 'size', help: 'qcow2 cluster size', defaultText: '65536' },
  { name: 'extended_l2', type: 'bool', help: 'Extended L2 tables', defaultText: 'off' },
  {
    name: 'preallocation',
    type: 'string',
    help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
  },
  {
    name: 'compression_type',
    type: 'string',
    help: 'Compression method used for image cluster compression',
    defaultText: 'zlib',
  },
  sizeOption,
  { name: 'compat', type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
  { name: 'data_file', type: 'string', help: 'File name of an external data file' },
  {
    name: 'data_file_raw',
    type: 'bool',
    help: 'The external data file must stay valid as a raw image',
  },
  { name: 'lazy_refcounts', type: 'bool', help: 'Postpone refcount updates', defaultText: 'off' },
  {
    name: 'refcount_bits',
    type: 'number',
    help: 'Width of a reference count entry in bits',
    defaultText: '16',
  },
  refusedText('nocow', 'bool', ['off', 'no', 'false', 'n']),
  refusedText('extent_size_hint', 'size', ['0']),
  {
    name: 'journal',
    type: 'string',
    help: 'Journal for metadata and small synchronous writes (on, off, v1 or draft-2013)',
  },
  { name: 'journal_size', type: 'size', help: 'Size of the journal' },
  { name: 'journal_block_size', type: 'size', help: 'Block size of the journal' },
];

function refusedText(
  name: string,
  type: ListedOption['type'],
  refusedUnless: readonly string[] = [],
): ListedOption {
  return { name, type, help: '', refused: notYet, refusedUnless };
}

/** What `-o help` prints: options in the order of their names, the refused ones left out. */
export function optionsHelp(format: string, options: readonly ListedOption[]): string {
  const types = { string: 'str', number: 'num', size: 'size', bool: 'bool (on/off)' } as const;
  const lines = options
    .filter((option) => option.refused === undefined)
    .map((option) => `  ${`${option.name}=<${types[option.type]}>`.padEnd(22)} - ${option.help}\n`)
    .sort();
  return `Supported ${format} options:\n${lines.join('')}`;
}

/** @throws CommandFailure where a value asks for what is not served here */
export function refuseUnsupported(
  options: readonly ListedOption[],
  values: OptionValues,
  subject: string,
): void {
  for (const option of options) {
    const given = values.get(option.name);
    if (given === undefined || option.refused === undefined) continue;
    if (option.refusedUnless?.includes(given.text) === true) continue;
    throw new CommandFailure(`${subject}: Parameter '${option.name}' is ${option.refused}`);
  }
}

/** The line that qemu-img prints before it creates anything. */
export function formattingLine(
  path: string,
  format: string,
  options: readonly ListedOption[],
  values: OptionValues,
): string {
  const shown = options.flatMap((option) => {
    const given = values.get(option.name);
    const text = given === undefined ? option.defaultText : echoed(option, given.text, given.value);
    return text === undefined ? [] : [`${option.name}=${escapeCommas(text)}`];
  });
  return `Formatting '${path}', fmt=${format} ${shown.join(' ')}\n`;
}

/** Sizes are echoed in bytes, numbers as signed, everything else as it was given. */
function echoed(option: ListedOption, text: string, value: bigint | boolean | string): string {
  if (typeof value !== 'bigint') return text;
  return String(option.type === 'number' ? BigInt.asIntN(64, value) : value);
}

export interface Qcow2CreateSettings {
  readonly version: 2 | 3;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly lazyRefcounts: boolean;
  readonly extendedL2: boolean;
  readonly compressionType: 'deflate' | 'zstd';
  readonly preallocation: 'off' | 'metadata';
  /** Also space for the clusters that preallocated metadata leads to. */
  readonly space?: SpaceReservation;
  readonly sizeBytes: number;
  readonly backingFile?: string;
  readonly backingFormat?: string;
  /** The name as given, and whether the file is to be a raw image. */
  readonly dataFile?: { readonly name: string; readonly raw: boolean };
  readonly journal: false | JournalSettings;
  readonly encrypt?: EncryptionSettings;
}

/** What a journal is to be like. */
interface JournalSettings {
  readonly profile: JournalProfile;
  readonly sizeBytes?: number;
  readonly blockBytes?: number;
}

const defaultJournalBlockBytes = 4096;
const sectorBytes = 512n;
const l1EntryBytes = 8n;
const maxL1Bytes = 32n * 1024n * 1024n;

/**
 * The options as settings.
 * @param values parsed, `size` among them
 * @throws CommandFailure, with qemu-img's words, where they do not go together
 */
export function qcow2Settings(values: OptionValues, subject: string): Qcow2CreateSettings {
  const refuse = (message: string): never => {
    throw new CommandFailure(`${subject}: ${message}`);
  };
  const { preallocation, space } = preallocationOf(values, refuse);
  const version = versionOf(values, refuse);
  const clusterBytes = clusterBytesOf(values, refuse);
  const backingFile = textOf(values, 'backing_file');
  const backingFormat = textOf(values, 'backing_fmt');
  const extendedL2 = values.get('extended_l2')?.value === true;
  if (backingFile !== undefined && preallocation !== 'off' && !extendedL2) {
    refuse('Backing file and preallocation can only be used at the same time if extended_l2 is on');
  }
  if (backingFile === undefined && backingFormat !== undefined) {
    refuse('Backing format cannot be used without backing file');
  }
  if (extendedL2) checkExtendedL2(version, clusterBytes, refuse);
  const lazyRefcounts = values.get('lazy_refcounts')?.value === true;
  if (version < 3 && lazyRefcounts) {
    refuse(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    );
  }
  const refcountBits = refcountBitsOf(values, version, refuse);
  const dataFile = dataFileOf(values, version, refuse);
  const compressionType = compressionTypeOf(values, version, refuse);
  const journal = journalOf(values, version, Number(clusterBytes), refuse);
  if (compressionType === 'zstd' && journal !== false && journal.profile === 'draft-2013') {
    refuse('A journal of draft-2013 is only supported with compression_type=zlib');
  }
  const encrypt = encryptionSettings(values, refuse);
  if (encrypt !== undefined && version < 3 && preallocation !== 'off') {
    refuse('Preallocation of an encrypted image is only supported with compatibility level 1.1 and above');
  }
  return {
    version,
    clusterBytes: Number(clusterBytes),
    refcountBits,
    lazyRefcounts,
    extendedL2,
    compressionType,
    preallocation,
    ...(space === undefined ? {} : { space }),
    sizeBytes: sizeBytesOf(values, clusterBytes, extendedL2, refuse),
    ...(backingFile === undefined ? {} : { backingFile }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
    ...(dataFile === undefined ? {} : { dataFile }),
    journal,
    ...(encrypt === undefined ? {} : { encrypt }),
  };
}

type Refuse = (message: string) => never;

function preallocationOf(
  values: OptionValues,
  refuse: Refuse,
): Pick<Qcow2CreateSettings, 'preallocation' | 'space'> {
  const text = textOf(values, 'preallocation') ?? 'off';
  if (text === 'off' || text === 'metadata') return { preallocation: text };
  if (text === 'falloc' || text === 'full') return { preallocation: 'metadata', space: text };
  return refuse(`Parameter 'preallocation' does not accept value '${text}'`);
}

/** Of a raw file. @throws CommandFailure, with qemu-img's words */
export function rawReservation(values: OptionValues, subject: string): SpaceReservation | undefined {
  const text = textOf(values, 'preallocation') ?? 'off';
  if (text === 'off') return undefined;
  if (text === 'falloc' || text === 'full') return text;
  throw new CommandFailure(
    text === 'metadata'
      ? `${subject}: Unsupported preallocation mode: metadata`
      : `${subject}: invalid parameter value: ${text}`,
  );
}

function versionOf(values: OptionValues, refuse: Refuse): 2 | 3 {
  const text = textOf(values, 'compat') ?? '1.1';
  if (text === '0.10' || text === 'v2') return 2;
  if (text === '1.1' || text === 'v3') return 3;
  return refuse(`Parameter 'version' does not accept value '${text}'`);
}

function compressionTypeOf(values: OptionValues, version: 2 | 3, refuse: Refuse): 'deflate' | 'zstd' {
  const text = textOf(values, 'compression_type') ?? 'zlib';
  if (text === 'zlib') return 'deflate';
  if (text !== 'zstd') return refuse(`Parameter 'compression-type' does not accept value '${text}'`);
  if (version < 3) {
    return refuse(
      'Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    );
  }
  return 'zstd';
}

function clusterBytesOf(values: OptionValues, refuse: Refuse): bigint {
  const value = integerOf(values, 'cluster_size') ?? 65536n;
  if (value < 512n || value > 2048n * 1024n || (value & (value - 1n)) !== 0n) {
    refuse('Cluster size must be a power of two between 512 and 2048k');
  }
  return value;
}

function refcountBitsOf(values: OptionValues, version: 2 | 3, refuse: Refuse): number {
  const value = integerOf(values, 'refcount_bits') ?? 16n;
  if (value < 1n || value > 64n || (value & (value - 1n)) !== 0n) {
    refuse('Refcount width must be a power of two and may not exceed 64 bits');
  }
  if (version < 3 && value !== 16n) {
    refuse(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
    );
  }
  return Number(value);
}

function dataFileOf(
  values: OptionValues,
  version: 2 | 3,
  refuse: Refuse,
): Qcow2CreateSettings['dataFile'] | undefined {
  const name = textOf(values, 'data_file');
  const raw = values.get('data_file_raw')?.value === true;
  if (raw && textOf(values, 'backing_file') !== undefined) {
    refuse('Backing file and data-file-raw cannot be used at the same time');
  }
  if (raw && name === undefined) refuse('data-file-raw requires data-file');
  if (name === undefined) return undefined;
  if (version < 3) {
    refuse(
      'External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    );
  }
  if (protocolOf(name) !== undefined) refuse(`A data file is named by a path, not as '${name}'`);
  return { name, raw };
}

function checkExtendedL2(version: 2 | 3, clusterBytes: bigint, refuse: Refuse): void {
  if (version < 3) {
    refuse(
      'Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    );
  }
  if (clusterBytes < 16384n) {
    refuse('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes');
  }
}

function sizeBytesOf(
  values: OptionValues,
  clusterBytes: bigint,
  extendedL2: boolean,
  refuse: Refuse,
): number {
  const wanted = integerOf(values, 'size') ?? 0n;
  const sizeBytes = ((wanted + sectorBytes - 1n) / sectorBytes) * sectorBytes;
  const bytesPerL1Entry = clusterBytes * (clusterBytes / (extendedL2 ? 16n : 8n));
  const l1Entries = (sizeBytes + bytesPerL1Entry - 1n) / bytesPerL1Entry;
  if (l1Entries * l1EntryBytes > maxL1Bytes) {
    refuse("The image size is too large for file format 'qcow2' (try using a larger cluster size)");
  }
  if (sizeBytes > BigInt(Number.MAX_SAFE_INTEGER)) refuse('Sizes of 8 PiB and more are not supported');
  return Number(sizeBytes);
}

/** Bytes that the journal of an image to be made takes; 0 without one. @throws what `refuse` throws */
export function journalAreaBytes(
  values: OptionValues,
  version: 2 | 3,
  clusterBytes: number,
  refuse: Refuse,
): number {
  const settings = journalOf(values, version, clusterBytes, refuse);
  if (settings === false) return 0;
  return Math.ceil((settings.sizeBytes ?? defaultJournalBytes) / clusterBytes) * clusterBytes;
}

function journalOf(
  values: OptionValues,
  version: 2 | 3,
  clusterBytes: number,
  refuse: Refuse,
): Qcow2CreateSettings['journal'] {
  const sizeBytes = integerOf(values, 'journal_size');
  const blockBytes = integerOf(values, 'journal_block_size');
  const profile = profileOf(textOf(values, 'journal') ?? 'off', refuse);
  if (profile === undefined) {
    if (sizeBytes !== undefined) refuse("Parameter 'journal_size' needs journal=on");
    if (blockBytes !== undefined) refuse("Parameter 'journal_block_size' needs journal=on");
    return false;
  }
  if (version < 3) {
    refuse('A journal is only supported with compatibility level 1.1 and above (use version=v3 or greater)');
  }
  const settings = {
    profile,
    ...(sizeBytes === undefined ? {} : { sizeBytes: Number(sizeBytes) }),
    ...(blockBytes === undefined ? {} : { blockBytes: Number(blockBytes) }),
  };
  checkJournalSizes(settings, clusterBytes, refuse);
  return settings;
}

/** @returns undefined for none */
function profileOf(text: string, refuse: Refuse): JournalProfile | undefined {
  if (text === 'v1' || text === 'draft-2013') return text;
  if (['on', 'yes', 'true', 'y'].includes(text)) return 'v1';
  if (['off', 'no', 'false', 'n'].includes(text)) return undefined;
  return refuse("Parameter 'journal' expects 'on', 'off', 'v1' or 'draft-2013'");
}

/** The driver refuses the same, but only when the file has been emptied. */
function checkJournalSizes(settings: JournalSettings, clusterBytes: number, refuse: Refuse): void {
  const isDraft = settings.profile === 'draft-2013';
  const defaultBlockBytes = isDraft
    ? defaultDraftBlockBytes
    : Math.min(clusterBytes, defaultJournalBlockBytes);
  const { sizeBytes, blockBytes = defaultBlockBytes } = settings;
  const isPower = blockBytes > 0 && Number.isInteger(Math.log2(blockBytes));
  if (!isPower || blockBytes < 512 || blockBytes > clusterBytes) {
    refuse('Journal block size must be a power of two between 512 and the cluster size');
  }
  if (sizeBytes === undefined) return;
  const lengthBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
  const fits = lengthBytes >= journalV1Limits.minAreaBytes && lengthBytes <= journalV1Limits.maxAreaBytes;
  if (isDraft) {
    const blocks = Math.floor(lengthBytes / blockBytes) - 1;
    if (fits && blocks >= minNewDraftBlocks) return;
    refuse(`Journal size must be between 64k and 1G, and hold at least ${minNewDraftBlocks + 1} blocks`);
  }
  if (!fits || !isUsableGeometry(journalGeometry(lengthBytes, blockBytes), blockBytes)) {
    refuse('Journal size must be between 64k and 1G, and hold at least eight blocks');
  }
}

function textOf(values: OptionValues, name: string): string | undefined {
  return values.get(name)?.text;
}

function integerOf(values: OptionValues, name: string): bigint | undefined {
  const value = values.get(name)?.value;
  return typeof value === 'bigint' ? value : undefined;
}
