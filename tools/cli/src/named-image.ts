/**
 * The image that a command works on, as its operand names it: by a file name, by a `json:` name, or with --image-opts by a list of
 * QEMU's options; and the secrets that open it and what is below it (`--object`).
 */
import type { BlockDevice } from '@qcow2/block-device';
import type { ImageEncryption } from '@qcow2/driver';
import type { OptionSpec, ParsedArguments } from './arguments.ts';
import { imageEncryption } from './encryption-options.ts';
import { CommandFailure } from './failures.ts';
import { type ImageNode, type ImageOptions, namedByOptions, parseImageOptions } from './image-options.ts';
import { isJsonName } from './json-name.ts';
import { objectOption, Secrets } from './secrets.ts';

/** Of every command that takes an image. */
export const imageNameOptions: readonly OptionSpec[] = [
  objectOption,
  {
    name: 'image-opts',
    help: "FILE is a list of QEMU's options: driver=qcow2,file.filename=…,encrypt.key-secret=ID",
  },
];

export interface NamedImage {
  /** The operand, as messages repeat it. */
  readonly text: string;
  readonly fileName: string;
  /** Undefined: found by itself. */
  readonly format: string | undefined;
  /** What opens it, and what is said of the images below. */
  readonly node: Pick<ImageNode, 'encryptFormat' | 'keySecret' | 'backing'>;
  /** Undefined where the operand is a file name and nothing else. */
  readonly options: ImageOptions | undefined;
  readonly secrets: Secrets;
  /** What a failure to open it is called. */
  explain(error: unknown): unknown;
}

/**
 * @param words whose words failures have
 * @throws CommandFailure for options that are not served, or contradict each other
 */
export function namedImage(
  args: ParsedArguments,
  operand: string,
  words: 'qemu-img' | 'qemu-nbd' = 'qemu-img',
): NamedImage {
  const secrets = new Secrets(args.values('object'));
  const format = args.value('format');
  const byOptions = args.has('image-opts');
  if (byOptions && format !== undefined) {
    const option = words === 'qemu-img' ? '--format' : '-f';
    throw new CommandFailure(`--image-opts and ${option} are mutually exclusive`);
  }
  return nameImage(operand, { format, byOptions, secrets }, words);
}

/** What an operand is taken for. */
export interface NamingChoice {
  readonly format: string | undefined;
  /** It is a list of options. */
  readonly byOptions: boolean;
  readonly secrets: Secrets;
}

/** As `namedImage`, for commands that name several images. @throws CommandFailure */
export function nameImage(
  operand: string,
  { format, byOptions, secrets }: NamingChoice,
  words: 'qemu-img' | 'qemu-nbd' = 'qemu-img',
): NamedImage {
  if (!byOptions && !isJsonName(operand)) {
    const explain = (error: unknown): unknown => error;
    return { text: operand, fileName: operand, format, node: noNode, options: undefined, secrets, explain };
  }
  const subject =
    words === 'qemu-img' ? `Could not open '${operand}'` : `Failed to blk_new_open '${operand}'`;
  const options = parseImageOptions(operand, subject);
  const { fileName } = options;
  const explain = (error: unknown): unknown => namedByOptions(subject, fileName, error);
  return {
    text: operand,
    fileName,
    format: format ?? options.format,
    node: options,
    options,
    secrets,
    explain,
  };
}

const noNode = { encryptFormat: undefined, keySecret: undefined, backing: undefined } as const;

/** What an image is to be opened with by its options, of which there may be none. @throws CommandFailure: "No secret with id '…'" */
export async function secretOf(
  node: Pick<ImageNode, 'encryptFormat' | 'keySecret'> | undefined,
  secrets: Secrets,
  device: BlockDevice,
): Promise<{ encryption?: ImageEncryption }> {
  if (node?.keySecret === undefined) return {};
  return { encryption: await imageEncryption(device, secrets.bytes(node.keySecret), node.encryptFormat) };
}
