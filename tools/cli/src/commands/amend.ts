/** `amend`: who may open an encrypted image from now on, in qemu-img's options and words. Nothing else of an image is amended. */
import { openImage, type Qcow2Image } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { imageNameOptions, type NamedImage, namedImage } from '../named-image.ts';
import { explainingOpen, openChain, requireQcow2 } from '../open-image.ts';
import { joinLists, type ListedOption, type OptionValues, parseOptionList } from '../option-list.ts';
import type { Secrets } from '../secrets.ts';

const notYet = 'not supported yet';
const text = (name: string, help: string): ListedOption => ({
  name: `encrypt.${name}`,
  type: 'string',
  help,
});
const refused = (name: string): ListedOption => ({ name, type: 'string', help: '', refused: notYet });

const amendOptions: readonly ListedOption[] = [
  text('state', 'Select new state of affected keyslots (active/inactive)'),
  text('new-secret', 'New secret to set in the matching keyslots'),
  text('old-secret', 'Select all keyslots that match this password'),
  { name: 'encrypt.keyslot', type: 'number', help: 'Select a single keyslot to modify explicitly' },
  { name: 'encrypt.iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  ...['backing_file', 'backing_fmt', 'compat', 'data_file', 'data_file_raw'].map(refused),
  ...['lazy_refcounts', 'refcount_bits', 'size'].map(refused),
];

export const amend: Command = {
  operands: 'FILE',
  options: [
    { name: 'options', short: 'o', argument: 'LIST', help: 'what is to change' },
    ...imageNameOptions,
    { name: 'force', help: 'erase the last key slot too: nothing opens the image any more' },
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2; found by itself if not given' },
    { name: 'progress', short: 'p', refused: 'it is done in one step' },
    { name: 'cache', short: 't', argument: 'CACHE', refused: 'files are used through the page cache' },
  ],
  notes:
    'Examples:\n' +
    '  qcow2 amend --object secret,id=old,file=old.txt --object secret,id=new,file=new.txt \\\n' +
    '    -o encrypt.state=active,encrypt.new-secret=new \\\n' +
    '    --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=disk.qcow2',
  run: runAmend,
};

async function runAmend(args: ParsedArguments): Promise<number> {
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  if (!args.has('options')) throw usageFailure('Must specify options (-o)');
  const values = parseOptionList(amendOptions, joinLists(args.values('options')), name);
  for (const { name: option, refused: why } of amendOptions) {
    if (why !== undefined && values.has(option)) throw new CommandFailure(`Parameter '${option}' is ${why}`);
  }
  const named = namedImage(args, name);
  const { secrets } = named;
  const { image, secret } = await openNamed(named);
  try {
    await changeKeys(image, values, { secrets, secret, force: args.has('force') });
  } finally {
    await image.close();
  }
  return 0;
}

interface Opened {
  readonly image: Qcow2Image;
  /** What opened it; undefined: nothing had to. */
  readonly secret: Uint8Array | undefined;
}

/** The image alone: no name that stands in it is followed for its keys. */
async function openNamed(named: NamedImage): Promise<Opened> {
  const { fileName, node, secrets } = named;
  const { top, opening } = await openChain(named, { readOnly: false, alone: true });
  try {
    requireQcow2(top, 'amend');
    const image = await explainingOpen(fileName, () => openImage(top.device, opening));
    return { image, secret: node.keySecret === undefined ? undefined : secrets.bytes(node.keySecret) };
  } catch (error) {
    await top.close();
    throw named.explain(error);
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
