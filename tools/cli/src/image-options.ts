/**
 * `--image-opts`: an image named by QEMU's runtime options, `driver=qcow2,file.filename=…,l2-cache-size=…`, with those of the
 * images below it behind `backing.`. What the driver does with them is the library's; here they are read, and refused in QEMU's words.
 */
import type { CacheOptions, PassDiscard } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import { CommandFailure } from './failures.ts';
import { protocolOf } from './file-name.ts';
import { isForeign, type ServedFormat, servedFormat } from './image-format.ts';
import { isJsonName, jsonElements } from './json-name.ts';
import {
  elementsOf,
  type ListedOption,
  type OptionElement,
  type OptionValues,
  parseElements,
} from './option-list.ts';
import { isProtocolDriver, protocolNameOf } from './protocol-name.ts';
import { parseSize } from './sizes.ts';

/** How one image of a chain is opened. */
export interface ImageNode {
  /** As an argument names it; undefined: as the image above does. */
  readonly fileName: string | undefined;
  /** Undefined: as the image above says, or found by itself. */
  readonly format: ServedFormat | undefined;
  /** What the image is said to be encrypted as, and the id of the secret that opens it. */
  readonly encryptFormat: 'aes' | 'luks' | undefined;
  readonly keySecret: string | undefined;
  /** What is said of the image below. `none`: there is none, whatever the image says. */
  readonly backing: ImageNode | 'none' | undefined;
}

export interface ImageOptions extends ImageNode {
  readonly fileName: string;
  /** `driver` names no format, but what is below one: its bytes are the disk's. */
  readonly protocol: string | undefined;
  readonly cache: CacheOptions;
  /** Undefined: as the image says. */
  readonly lazyRefcounts: boolean | undefined;
  /** Of what is free: whether a discard goes to the file. Not said: QEMU's defaults. */
  readonly passDiscard: Partial<PassDiscard>;
  /** Names that were given without a value, which QEMU warns about. */
  readonly shortForms: readonly string[];
}

const notYet = 'not supported yet';

/** Of every block driver. */
const commonOptions: readonly ListedOption[] = [
  { name: 'driver', type: 'string', help: 'format of the image' },
  ...['node-name', 'discard', 'detect-zeroes', 'cache.direct', 'cache.no-flush', 'force-share'].map(refused),
  ...['read-only', 'auto-read-only'].map(refused),
];

const fileOptions: readonly ListedOption[] = [
  { name: 'file.driver', type: 'string', help: 'file, http, https, nbd or null-co' },
  { name: 'file.filename', type: 'string', help: 'path of the file' },
  ...['aio', 'locking', 'pr-manager', 'aio-max-batch', 'drop-cache', 'x-check-cache-dropped'].map((name) =>
    refused(`file.${name}`),
  ),
];

const qcow2Options: readonly ListedOption[] = [
  { name: 'cache-size', type: 'size', help: 'both metadata caches together' },
  { name: 'l2-cache-size', type: 'size', help: 'cache of L2 tables' },
  { name: 'refcount-cache-size', type: 'size', help: 'cache of refcount blocks' },
  { name: 'l2-cache-entry-size', type: 'size', help: 'entry of the L2 cache' },
  { name: 'cache-clean-interval', type: 'number', help: 'seconds until what is not used is dropped' },
  { name: 'lazy-refcounts', type: 'bool', help: 'postpone refcount updates' },
  { name: 'encrypt.format', type: 'string', help: 'aes or luks; found by itself if not given' },
  { name: 'encrypt.key-secret', type: 'string', help: 'id of the secret that opens the image' },
  ...['request', 'snapshot', 'other'].map((cause) => ({
    name: `pass-discard-${cause}`,
    type: 'bool' as const,
    help: `discard in the file what is free for this reason: ${cause}`,
  })),
  ...['data-file', 'overlap-check', 'discard-no-unref'].map(refused),
];

const rawOptions: readonly ListedOption[] = ['offset', 'size'].map(refused);

function refused(name: string): ListedOption {
  return { name, type: 'string', help: '', refused: notYet };
}

/** The longest interval that QEMU takes. */
const longestIntervalSeconds = 2n ** 32n - 1n;

type Fail = (message: string) => never;

/**
 * @param list as --image-opts takes it, or a `json:` name
 * @param subject what messages begin with
 * @throws CommandFailure
 */
export function parseImageOptions(list: string, subject = `Failed to blk_new_open '${list}'`): ImageOptions {
  const fail: Fail = (message) => {
    throw new CommandFailure(`${subject}: ${message}`);
  };
  const given = isJsonName(list) ? elementsOfJson(list, fail) : elementsOf(list);
  const protocol = textOf(given, 'driver');
  const elements = isProtocolDriver(protocol) ? asRawOf(protocol, given) : given;
  // A first element without "=" is the value of "file", which names a block device of QEMU's, not a path.
  const isBare = elements[0]?.isShort === true;
  const device = isBare ? list.split(',')[0] : elements.find(({ name }) => name === 'file')?.text;
  if (device !== undefined) fail(`Cannot find device='${device}' nor node-name='${device}'`);
  const own = elements.filter(({ name }) => !isOfBacking(name));
  const driver = textOf(own, 'driver');
  if (!own.some(({ name }) => name.startsWith('file.'))) {
    fail(
      driver === undefined
        ? 'Must specify either driver or file'
        : 'A block device must be specified for "file"',
    );
  }
  const node = parseNode(elements, fail);
  refuseUnknown(own, node.format, fail);
  const values = parseElements(
    optionsOf(node.format),
    own.filter(({ name }) => name !== 'file.url' && !isOfProtocol(own, name)),
    subject,
  );
  const lazy = values.get('lazy-refcounts')?.value;
  return {
    ...node,
    protocol: isProtocolDriver(protocol) ? protocol : undefined,
    fileName: node.fileName ?? fail("The 'file' block driver requires a file name"),
    cache: cacheOf(values, fail),
    lazyRefcounts: typeof lazy === 'boolean' ? lazy : undefined,
    passDiscard: passDiscardOf(values),
    shortForms: own.filter(({ isShort }) => isShort).map(({ name }) => name),
  };
}

/**
 * What opens an image below another one: its own secret, its file where it is not the one that is named above, and what is
 * below. @throws CommandFailure
 */
export function parseBackingNode(elements: readonly OptionElement[]): ImageNode {
  const fail: Fail = (message) => {
    throw new CommandFailure(`Could not open backing file: ${message}`);
  };
  const own = elements.filter(({ name }) => !isOfBacking(name));
  const node = parseNode(elements, fail);
  refuseUnknown(own, node.format, fail);
  const served = /^(driver|file\.[\w.-]+|encrypt\.[\w-]+)$/;
  const more = own.find(({ name }) => !served.test(name));
  if (more !== undefined) fail(`Parameter '${more.name}' is ${notYet} below an image`);
  return node;
}

function isOfBacking(name: string): boolean {
  return name === 'backing' || name.startsWith('backing.');
}

function parseNode(elements: readonly OptionElement[], fail: Fail): ImageNode {
  const own = elements.filter(({ name }) => !isOfBacking(name));
  const format = formatOf(textOf(own, 'driver'), fail);
  return {
    fileName: fileOf(own, fail),
    format,
    encryptFormat: encryptFormatOf(textOf(own, 'encrypt.format'), fail),
    keySecret: textOf(own, 'encrypt.key-secret'),
    backing: backingOf(elements, format, fail),
  };
}

function backingOf(
  elements: readonly OptionElement[],
  format: ServedFormat | undefined,
  fail: Fail,
): ImageNode['backing'] {
  const node = textOf(elements, 'backing');
  const below = elements
    .filter(({ name }) => name.startsWith('backing.'))
    .map((element) => ({ ...element, name: element.name.slice('backing.'.length) }));
  if (node === undefined && below.length === 0) return undefined;
  if (format === 'raw' || isForeign(format ?? '')) {
    fail(`Block format '${format}' does not support the option 'backing'`);
  }
  if (below.length > 0) return parseBackingNode(below);
  // "" means the same as null in JSON: no backing file, whatever the image says.
  return node === ''
    ? 'none'
    : fail(`Could not open backing file: Cannot find device='${node}' nor node-name='${node}'`);
}

/** The file's name, in the words of an argument: with a protocol in front only where one is meant. */
function fileOf(elements: readonly OptionElement[], fail: Fail): string | undefined {
  const driver = textOf(elements, 'file.driver');
  const name = textOf(elements, 'file.filename');
  switch (driver) {
    case undefined:
      return name;
    case 'file':
      if (name === undefined) return fail("The 'file' block driver requires a file name");
      return protocolOf(name) === undefined ? name : `./${name}`;
    case 'http':
    case 'https': {
      const url = textOf(elements, 'file.url');
      if (url === undefined) return fail("curl block driver requires an 'url' option");
      if (!url.startsWith(`${driver}:`))
        return fail(
          `${driver} curl driver cannot handle the URL '${url}' (does not start with '${driver}://')`,
        );
      return url;
    }
    default:
      if (isProtocolDriver(driver)) return protocolFileOf(driver, elements, fail);
      return fail(`Unknown driver '${driver}'`);
  }
}

/** The options of a driver of no format, as those of a raw disk on it. */
function asRawOf(driver: string, elements: readonly OptionElement[]): OptionElement[] {
  const shared = new Set(commonOptions.map(({ name }) => name));
  const moved = elements
    .filter(({ name }) => name !== 'driver')
    .map((element) => (shared.has(element.name) ? element : { ...element, name: `file.${element.name}` }));
  return [
    { name: 'driver', text: 'raw', isShort: false },
    { name: 'file.driver', text: driver, isShort: false },
    ...moved,
  ];
}

/** Options of a file that is none are its driver's. */
function isOfProtocol(elements: readonly OptionElement[], name: string): boolean {
  return name.startsWith('file.') && isProtocolDriver(textOf(elements, 'file.driver'));
}

function protocolFileOf(driver: string, elements: readonly OptionElement[], fail: Fail): string {
  const options = elements
    .filter(({ name }) => name.startsWith('file.') && name !== 'file.driver')
    .map((element) => ({ ...element, name: element.name.slice('file.'.length) }));
  try {
    return protocolNameOf(driver, options);
  } catch (error) {
    if (error instanceof CommandFailure) fail(error.message);
    throw error;
  }
}

function textOf(elements: readonly OptionElement[], name: string): string | undefined {
  return elements.findLast((element) => element.name === name)?.text;
}

function elementsOfJson(name: string, fail: Fail): readonly OptionElement[] {
  try {
    return jsonElements(name);
  } catch (error) {
    if (error instanceof CommandFailure) fail(error.message);
    throw error;
  }
}

function optionsOf(format: ServedFormat | undefined): ListedOption[] {
  const own = format === 'raw' ? rawOptions : isForeign(format ?? '') ? [] : qcow2Options;
  return [...commonOptions, ...fileOptions, ...own];
}

function refuseUnknown(
  elements: readonly OptionElement[],
  format: ServedFormat | undefined,
  fail: Fail,
): void {
  const options = optionsOf(format);
  for (const { name, text } of elements) {
    const option = options.find((one) => one.name === name);
    if (option?.type === 'size' && parseSize(text) === 'too large') {
      fail(`Value '${text}' is out of range for parameter '${name}'`);
    }
    const isHttpOption = /^https?$/.test(textOf(elements, 'file.driver') ?? '') && name === 'file.url';
    if (isHttpOption || isOfProtocol(elements, name)) continue;
    if (option?.refused !== undefined) fail(`Parameter '${name}' is ${option.refused}`);
    if (option !== undefined) continue;
    if (name.startsWith('file.')) fail(`Block protocol 'file' doesn't support the option '${name.slice(5)}'`);
    fail(`Block format '${format ?? 'qcow2'}' does not support the option '${name}'`);
  }
}

function formatOf(driver: string | undefined, fail: Fail): ServedFormat | undefined {
  if (driver === undefined) return undefined;
  if (driver !== 'qcow2' && driver !== 'raw' && !isForeign(driver)) return fail(`Unknown driver '${driver}'`);
  return servedFormat(driver);
}

function encryptFormatOf(format: string | undefined, fail: Fail): 'aes' | 'luks' | undefined {
  if (format === undefined || format === 'aes' || format === 'luks') return format;
  return fail(`Parameter 'encrypt.format' does not accept value '${format}'`);
}

function passDiscardOf(values: OptionValues): Partial<PassDiscard> {
  const said = (['request', 'snapshot', 'other'] as const).flatMap((cause) => {
    const value = values.get(`pass-discard-${cause}`)?.value;
    return typeof value === 'boolean' ? [[cause, value] as const] : [];
  });
  return Object.fromEntries(said);
}

/** QEMU's: what clients discard, where the file is opened so; what snapshots had, always; nothing else. */
export function passDiscard(options: ImageOptions | undefined, discard: 'ignore' | 'unmap'): PassDiscard {
  return { request: discard === 'unmap', snapshot: true, other: false, ...options?.passDiscard };
}

function cacheOf(values: OptionValues, fail: Fail): CacheOptions {
  const bytes = (name: string): number | undefined => {
    const value = values.get(name)?.value;
    // More than a number can say is more than there is.
    return typeof value === 'bigint' ? Math.min(Number(value), Number.MAX_SAFE_INTEGER) : undefined;
  };
  const seconds = values.get('cache-clean-interval')?.value;
  if (typeof seconds === 'bigint' && seconds > longestIntervalSeconds) fail('Cache clean interval too big');
  return {
    cacheSizeBytes: bytes('cache-size'),
    l2CacheSizeBytes: bytes('l2-cache-size'),
    refcountCacheSizeBytes: bytes('refcount-cache-size'),
    l2CacheEntryBytes: bytes('l2-cache-entry-size'),
    cacheCleanIntervalMs: typeof seconds === 'bigint' ? Number(seconds) * 1000 : undefined,
  };
}

/**
 * A failure to open, told of an image that was named by options.
 * @param subject as for `parseImageOptions`
 */
export function namedByOptions(subject: string, fileName: string, failure: unknown): unknown {
  if (!(failure instanceof CommandFailure)) return failure;
  const { cause, message } = failure;
  if (message.startsWith(`${subject}: `)) return failure;
  const prefix = `Could not open '${fileName}': `;
  const inWords =
    cause instanceof Qcow2Error && (cause.code === 'INVALID_ARGUMENT' || cause.code === 'UNSUPPORTED_OPTION')
      ? cause.message
      : message.startsWith(prefix)
        ? message.slice(prefix.length)
        : message;
  return new CommandFailure(`${subject}: ${inWords}`, { cause: failure });
}
