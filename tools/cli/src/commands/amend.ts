/** `amend`: who may open an encrypted image from now on, its version, its size, its refcounts; in qemu-img's options and words. */

import { decodeBackingFormat, findHeaderExtension } from '@qcow2/codec';
import { openImage, type Qcow2Image, readImageHeader } from '@qcow2/driver';
import { autoclearFeatures, headerExtensionTypes, incompatibleFeatures, Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { optionsHelp, qcow2Options } from '../create-options.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { imageNameOptions, type NamedImage, namedImage } from '../named-image.ts';
import { explainingOpen, type OpenedChain, openChain } from '../open-image.ts';
import {
  elementsOf,
  joinLists,
  type ListedOption,
  type OptionValues,
  parseOptionList,
} from '../option-list.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import type { Secrets } from '../secrets.ts';

const notYet = 'not supported yet';
const text = (name: string, help: string): ListedOption => ({
  name: `encrypt.${name}`,
  type: 'string',
  help,
});

const amendOptions: readonly ListedOption[] = [
  text('state', 'Select new state of affected keyslots (active/inactive)'),
  text('new-secret', 'New secret to set in the matching keyslots. Empty string to erase'),
  text('old-secret', 'Select all keyslots that match this password'),
  { name: 'encrypt.keyslot', type: 'number', help: 'Select a single keyslot to modify explicitly' },
  { name: 'encrypt.iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  { name: 'backing_file', type: 'string', help: 'File name of a base image' },
  { name: 'backing_fmt', type: 'string', help: 'Image format of the base image' },
  { name: 'compat', type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  { name: 'data_file', type: 'string', help: 'File name of an external data file' },
  { name: 'data_file_raw', type: 'bool', help: 'The external data file must stay valid as a raw image' },
  { name: 'lazy_refcounts', type: 'bool', help: 'Postpone refcount updates' },
  { name: 'refcount_bits', type: 'number', help: 'Width of a reference count entry in bits' },
  { name: 'size', type: 'size', help: 'Virtual disk size' },
];

export const amend: Command = {
  operands: 'FILE',
  options: [
    { name: 'options', short: 'o', argument: 'LIST', help: 'what is to change' },
    ...imageNameOptions,
    { name: 'force', help: 'erase the last key slot too: nothing opens the image any more' },
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2; found by itself if not given' },
    progressOption,
    { name: 'cache', short: 't', argument: 'CACHE', refused: 'files are used through the page cache' },
  ],
  notes:
    'Examples:\n' +
    '  qcow2 amend -o compat=1.1,lazy_refcounts=on disk.qcow2\n' +
    '  qcow2 amend --object secret,id=old,file=old.txt --object secret,id=new,file=new.txt \\\n' +
    '    -o encrypt.state=active,encrypt.new-secret=new \\\n' +
    '    --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=disk.qcow2',
  run: runAmend,
};

async function runAmend(args: ParsedArguments, context: CommandContext): Promise<number> {
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  if (!args.has('options')) throw usageFailure('Must specify options (-o)');
  const list = joinLists(args.values('options'));
  if (list === 'help' || list === '?') {
    context.out(
      optionsHelp('qcow2', amendOptions).replace(/^Supported .* options:/, "Amend options for 'qcow2':"),
    );
    return 0;
  }
  const named = namedImage(args, name);
  const values = parsedOptions(list);
  const change = plannedChange(values);
  const { image, secret } = await openNamed(named, change.size === undefined && change.version !== 2);
  const progress = new Progress(progressView(args, context), 1);
  try {
    const changesKeys = [...values.keys()].some((option) => option.startsWith('encrypt.'));
    await changeImage(image, values, change);
    if (changesKeys) {
      await changeKeys(image, values, { secrets: named.secrets, secret, force: args.has('force') });
    }
    progress.complete();
  } finally {
    progress.end();
    await image.close();
  }
  return 0;
}

function parsedOptions(list: string): OptionValues {
  const creation = elementsOf(list).find(
    ({ name }) =>
      !amendOptions.some((option) => option.name === name) &&
      qcow2Options.some((option) => option.name === name),
  );
  if (creation !== undefined) {
    throw new CommandFailure(
      `Invalid parameter '${creation.name}'\nThis option is only supported for image creation`,
    );
  }
  try {
    return parseOptionList(amendOptions, list, '');
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    throw new CommandFailure(error.message.replace(/^: /, ''), { cause: error });
  }
}

interface Change {
  readonly version: 2 | 3 | undefined;
  readonly lazyRefcounts: boolean | undefined;
  readonly refcountBits: number | undefined;
  readonly size: bigint | undefined;
}

function plannedChange(values: OptionValues): Change {
  const compat = values.get('compat')?.text;
  const isOld = compat === '0.10' || compat === 'v2';
  if (compat !== undefined && !isOld && compat !== '1.1' && compat !== 'v3') {
    throw new CommandFailure(`Unknown compatibility level ${compat}`);
  }
  const lazy = values.get('lazy_refcounts')?.value;
  const bits = values.get('refcount_bits')?.value;
  const size = values.get('size')?.value;
  return {
    version: compat === undefined ? undefined : isOld ? 2 : 3,
    lazyRefcounts: typeof lazy === 'boolean' ? lazy : undefined,
    refcountBits: typeof bits === 'bigint' ? Number(bits) : undefined,
    size: typeof size === 'bigint' ? size : undefined,
  };
}

/** In QEMU's order: what speaks against any of it first, then up, the size, and down at last. */
async function changeImage(image: Qcow2Image, values: OptionValues, change: Change): Promise<void> {
  const { version, lazyRefcounts, size } = change;
  const { header } = image;
  if (values.has('backing_file') || values.has('backing_fmt')) checkSameBacking(image, values);
  checkDataFile(image, values);
  checkRefcountBits(image, change);
  const before = header.version;
  const after = version ?? before;
  if (lazyRefcounts === true && after < 3) {
    throw new CommandFailure(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    );
  }
  const bits = change.refcountBits ?? 2 ** header.refcountOrder;
  if (after < 3 && bits !== 16) throw new CommandFailure('compat=0.10 requires refcount_bits=16');
  if (after === 2 && before === 3 && header.incompatibleFeatures !== 0n) {
    if ((header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n)
      throw new CommandFailure('Cannot downgrade an image with a data file');
    const mask = header.incompatibleFeatures.toString(16);
    throw new CommandFailure(`Cannot downgrade an image with incompatible features 0x${mask} set`);
  }
  const isDowngrade = after === 2 && before === 3;
  if (isDowngrade) checkSnapshots(image, size ?? BigInt(header.sizeBytes));
  if (bits !== 2 ** header.refcountOrder && !isDowngrade) {
    if (before < after) await image.amend({ version: 3 });
    await changeWidth(image, { refcountBits: bits });
  }
  await changeDataFile(image, values);
  // The first sector says both at once.
  if (after === 3)
    await image.amend({ version: 3, ...(lazyRefcounts === undefined ? {} : { lazyRefcounts }) });
  if (size !== undefined) await resizeTo(image, size);
  if (isDowngrade) await changeWidth(image, { version: 2, refcountBits: bits });
}

function checkSnapshots({ snapshots }: Qcow2Image, size: bigint): void {
  const isSame = snapshots.every(
    ({ diskSizeBytes, vmStateLengthBytes }) =>
      (diskSizeBytes === undefined || BigInt(diskSizeBytes) === size) && vmStateLengthBytes < 2 ** 32,
  );
  if (!isSame) throw new CommandFailure('Internal snapshots prevent downgrade of image');
}

function checkSameBacking({ header }: Qcow2Image, values: OptionValues): void {
  const said = findHeaderExtension(header.extensions, headerExtensionTypes.backingFormat);
  const format = said === undefined ? undefined : decodeBackingFormat(said);
  const isSame =
    (values.get('backing_file')?.text ?? header.backingFileName) === header.backingFileName &&
    (values.get('backing_fmt')?.text ?? format) === format;
  if (isSame) return;
  throw new CommandFailure("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
}

function checkDataFile({ header }: Qcow2Image, values: OptionValues): void {
  const isExternal = (header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n;
  if (values.has('data_file') && !isExternal)
    throw new CommandFailure('data-file can only be set for images that use an external data file');
  const raw = values.get('data_file_raw')?.value;
  const isRaw = (header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n;
  if (raw === true && !isRaw) throw new CommandFailure('data-file-raw cannot be set on existing images');
}

async function changeDataFile(image: Qcow2Image, values: OptionValues): Promise<void> {
  const name = values.get('data_file')?.text;
  const isRaw = (image.header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n;
  const endsRaw = isRaw && values.get('data_file_raw')?.value === false;
  if (name === undefined && !endsRaw) return;
  const dataFile = { ...(name === undefined ? {} : { name }), ...(endsRaw ? { raw: false as const } : {}) };
  await image.amend({ dataFile });
}

function checkRefcountBits({ header }: Qcow2Image, { version, refcountBits }: Change): void {
  if (refcountBits === undefined) return;
  if (!Number.isInteger(Math.log2(refcountBits)) || refcountBits > 64) {
    throw new CommandFailure('Refcount width must be a power of two and may not exceed 64 bits');
  }
  if (refcountBits !== 16 && (version ?? header.version) < 3) {
    throw new CommandFailure(
      'Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
}

async function changeWidth(
  image: Qcow2Image,
  amendment: { readonly version?: 2; readonly refcountBits: number },
): Promise<void> {
  try {
    await image.amend(amendment);
  } catch (error) {
    if (!(error instanceof Qcow2Error) || error.context.field !== 'refcount') throw error;
    const { hostOffset = 0, value } = error.context;
    const place = `Cluster at offset 0x${hostOffset.toString(16)} has a refcount of ${value}`;
    throw new CommandFailure(
      `Cannot decrease refcount entry width to ${amendment.refcountBits} bits: ${place}`,
      {
        cause: error,
      },
    );
  }
}

async function resizeTo(image: Qcow2Image, size: bigint): Promise<void> {
  if (size % 512n !== 0n) throw new CommandFailure('The new size must be a multiple of 512');
  if (size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new CommandFailure('Sizes of 8 PiB and more are not supported');
  await image.resize(Number(size), { shrink: true });
}

interface Opened {
  readonly image: Qcow2Image;
  /** What opened it; undefined: nothing had to. */
  readonly secret: Uint8Array | undefined;
}

/** @param alone no name that stands in the image is followed, but that of its data file: for its keys, and its header */
async function openNamed(named: NamedImage, alone: boolean): Promise<Opened> {
  const { fileName, node, secrets } = named;
  let chain = await openChain(named, { readOnly: false, alone });
  if (alone && (await hasDataFile(chain.top))) {
    await chain.close();
    chain = await openChain(named, { readOnly: false });
  }
  const { top, opening } = chain;
  try {
    if (top.format === 'raw') {
      throw new CommandFailure("Format driver 'raw' does not support option amendment");
    }
    const image = await explainingOpen(fileName, () =>
      openImage(top.device, { ...opening, lazyRefcounts: false }),
    );
    return { image, secret: node.keySecret === undefined ? undefined : secrets.bytes(node.keySecret) };
  } catch (error) {
    await top.close();
    throw named.explain(error);
  }
}

/** What is damaged has none: to open it says what is wrong. */
async function hasDataFile({ format, device }: OpenedChain['top']): Promise<boolean> {
  if (format !== 'qcow2') return false;
  try {
    const { header } = await readImageHeader(device);
    return (header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n;
  } catch (error) {
    if (error instanceof Qcow2Error) return false;
    throw error;
  }
}

async function changeKeys(
  image: Qcow2Image,
  values: OptionValues,
  { secrets, secret, force }: { secrets: Secrets; secret: Uint8Array | undefined; force: boolean },
): Promise<void> {
  const given = (name: string): string | undefined => values.get(`encrypt.${name}`)?.text;
  const number = (name: string): number | undefined => {
    const value = values.get(`encrypt.${name}`)?.value;
    return typeof value === 'bigint' ? Number(value) : undefined;
  };
  const state = given('state');
  if (image.header.cryptMethod === 0) {
    throw new CommandFailure("Can't amend encryption options - encryption not present");
  }
  if (state === undefined) throw new CommandFailure("Parameter 'state' is missing");
  const slot = number('keyslot');
  if (slot !== undefined && (slot < 0 || slot > 7)) {
    throw new CommandFailure(`Invalid keyslot ${slot} specified, must be between 0 and 7`);
  }
  if (secret === undefined || image.info().encryption !== 'luks') {
    throw new CommandFailure('Only the key slots of a LUKS image can be amended');
  }
  if (state === 'active')
    await addKey(image, { slot, unlockMs: number('iter-time') }, given, secrets, secret);
  else if (state === 'inactive') await removeKey(image, slot, given, secrets, force);
  else throw new CommandFailure(`Parameter 'state' does not accept value '${state}'`);
}

type Given = (name: string) => string | undefined;

async function addKey(
  image: Qcow2Image,
  how: { readonly slot: number | undefined; readonly unlockMs: number | undefined },
  given: Given,
  secrets: Secrets,
  passphrase: Uint8Array,
): Promise<void> {
  if (given('old-secret') !== undefined) {
    throw new CommandFailure("'old-secret' must not be given when activating keyslots");
  }
  const newSecret = given('new-secret');
  if (newSecret === undefined) throw new CommandFailure("'new-secret' is required to activate a keyslot");
  const newPassphrase = secrets.bytes(newSecret);
  const { addLuksKey } = await import('@qcow2/crypto');
  const { slot, unlockMs } = how;
  const added = {
    passphrase,
    newPassphrase,
    ...(slot === undefined ? {} : { slot }),
    ...(unlockMs === undefined ? {} : { unlockMs }),
  };
  await inWords(
    () => image.changeEncryptionHeader((header) => addLuksKey(header, added)),
    slot === undefined
      ? "Can't add a keyslot - all keyslots are in use"
      : `Refusing to overwrite active keyslot ${slot} - please erase it first`,
  );
}

async function removeKey(
  image: Qcow2Image,
  slot: number | undefined,
  given: Given,
  secrets: Secrets,
  evenTheLast: boolean,
): Promise<void> {
  if (given('new-secret') !== undefined) {
    throw new CommandFailure("'new-secret' must not be given when erasing keyslots");
  }
  const oldSecret = given('old-secret');
  if (slot !== undefined && oldSecret !== undefined) {
    throw new CommandFailure(`'keyslot' and 'old-secret' together are ${notYet}`);
  }
  const { removeLuksKey } = await import('@qcow2/crypto');
  if (oldSecret !== undefined) {
    const passphrase = secrets.bytes(oldSecret);
    await inWords(
      () => image.changeEncryptionHeader((header) => removeLuksKey(header, { passphrase, evenTheLast })),
      'All the active keyslots match the (old) password that was given and erasing them will erase ' +
        'all the data in the image irreversibly - refusing operation',
      'No keyslots match given (old) password for erase operation',
    );
    return;
  }
  if (slot === undefined) {
    throw new CommandFailure(
      'To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given',
    );
  }
  await inWords(
    () => image.changeEncryptionHeader((header) => removeLuksKey(header, { slot, evenTheLast })),
    (error) =>
      error.message.startsWith('the last')
        ? `Attempt to erase the only active keyslot ${slot} which will erase all the data in the image irreversibly - refusing operation`
        : `Given keyslot ${slot} is already erased (inactive) `,
  );
}

/** @throws CommandFailure in QEMU's words for what the slots do not allow, and for a secret that opens none */
async function inWords(
  action: () => Promise<unknown>,
  refusal: string | ((error: Qcow2Error) => string),
  wrong = 'Invalid password, cannot unlock any keyslot',
): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    if (error.code === 'WRONG_SECRET') throw new CommandFailure(wrong, { cause: error });
    if (error.code !== 'INVALID_ARGUMENT' || error.context.field !== 'slot') throw error;
    throw new CommandFailure(typeof refusal === 'string' ? refusal : refusal(error), { cause: error });
  }
}
