/**
 * `--image-opts`: an image named by QEMU's runtime options, `driver=qcow2,file.filename=…,l2-cache-size=…`. What the
 * driver does with them is the library's; here they are read, and refused in the words of qemu-nbd.
 */
import type { CacheOptions } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import { CommandFailure } from './failures.ts';
import { type ServedFormat, servedFormat } from './image-format.ts';
import { elementsOf, type ListedOption, type OptionValues, parseOptionList } from './option-list.ts';
import { parseSize } from './sizes.ts';

export interface ImageOptions {
  readonly fileName: string;
  /** Undefined: found by itself. */
  readonly format: ServedFormat | undefined;
  readonly cache: CacheOptions;
  /** Undefined: as the image says. */
  readonly lazyRefcounts: boolean | undefined;
  /** What the image is said to be encrypted as, and the id of the secret that opens it. */
  readonly encryptFormat: 'aes' | 'luks' | undefined;
  readonly keySecret: string | undefined;
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
  { name: 'file.driver', type: 'string', help: 'file, and nothing else' },
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
  ...['backing', 'data-file', 'overlap-check', 'pass-discard-request'].map(refused),
  ...['pass-discard-snapshot', 'pass-discard-other', 'discard-no-unref'].map(refused),
];

const rawOptions: readonly ListedOption[] = ['offset', 'size'].map(refused);

function refused(name: string): ListedOption {
  return { name, type: 'string', help: '', refused: notYet };
}

/** The longest interval that QEMU takes. */
const longestIntervalSeconds = 2n ** 32n - 1n;

/** @throws CommandFailure: "Failed to blk_new_open '…': …" */
export function parseImageOptions(list: string): ImageOptions {
  const fail = (message: string): never => {
    throw new CommandFailure(`Failed to blk_new_open '${list}': ${message}`);
  };
  const elements = elementsOf(list);
  // A first element without "=" is the value of "file", which names a block device of QEMU's, not a path.
  const isBare = elements[0]?.isShort === true;
  const node = isBare ? list.split(',')[0] : elements.find(({ name }) => name === 'file')?.text;
  if (node !== undefined) fail(`Cannot find device='${node}' nor node-name='${node}'`);
  const given = (name: string) => elements.findLast((element) => element.name === name)?.text;
  const driver = given('driver');
  const format = formatOf(driver, fail);
  if (!elements.some(({ name }) => name.startsWith('file.'))) {
    fail(
      driver === undefined
        ? 'Must specify either driver or file'
        : 'A block device must be specified for "file"',
    );
  }
  const fileDriver = given('file.driver');
  if (fileDriver !== undefined && fileDriver !== 'file') fail(`Unknown driver '${fileDriver}'`);
  const options = [...commonOptions, ...fileOptions, ...(format === 'raw' ? rawOptions : qcow2Options)];
  for (const { name, text } of elements) {
    const option = options.find((one) => one.name === name);
    if (option?.type === 'size' && parseSize(text) === 'too large') {
      fail(`Value '${text}' is out of range for parameter '${name}'`);
    }
    if (option?.refused !== undefined) fail(`Parameter '${name}' is ${option.refused}`);
    if (option !== undefined) continue;
    if (name.startsWith('file.')) fail(`Block protocol 'file' doesn't support the option '${name.slice(5)}'`);
    fail(`Block format '${format ?? 'qcow2'}' does not support the option '${name}'`);
  }
  const values = parseOptionList(options, list, `Failed to blk_new_open '${list}'`);
  const lazy = values.get('lazy-refcounts')?.value;
  return {
    fileName: values.get('file.filename')?.text ?? fail("The 'file' block driver requires a file name"),
    format,
    cache: cacheOf(values, fail),
    encryptFormat: encryptFormatOf(values, fail),
    keySecret: values.get('encrypt.key-secret')?.text,
    lazyRefcounts: typeof lazy === 'boolean' ? lazy : undefined,
    shortForms: elements.filter(({ isShort }) => isShort).map(({ name }) => name),
  };
}

function formatOf(driver: string | undefined, fail: (message: string) => never): ServedFormat | undefined {
  if (driver === undefined) return undefined;
  if (driver !== 'qcow2' && driver !== 'raw') return fail(`Unknown driver '${driver}'`);
  return servedFormat(driver);
}

function encryptFormatOf(values: OptionValues, fail: (message: string) => never): 'aes' | 'luks' | undefined {
  const format = values.get('encrypt.format')?.text;
  if (format === undefined || format === 'aes' || format === 'luks') return format;
  return fail(`Parameter 'encrypt.format' does not accept value '${format}'`);
}

function cacheOf(values: OptionValues, fail: (message: string) => never): CacheOptions {
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

/** A failure to open, told as qemu-nbd tells it of an image that was named by options. */
export function namedByOptions(list: string, fileName: string, failure: unknown): unknown {
  if (!(failure instanceof CommandFailure)) return failure;
  const { cause } = failure;
  const prefix = `Could not open '${fileName}': `;
  const { message } = failure;
  const inWords =
    cause instanceof Qcow2Error && (cause.code === 'INVALID_ARGUMENT' || cause.code === 'UNSUPPORTED_OPTION')
      ? cause.message
      : message.startsWith(prefix)
        ? message.slice(prefix.length)
        : message;
  return new CommandFailure(`Failed to blk_new_open '${list}': ${inWords}`, { cause: failure });
}
