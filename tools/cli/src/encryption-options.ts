/**
 * The `encrypt.` options of `create` and of `--image-opts`, in QEMU's names and words. The ciphers themselves are loaded only
 * where they are needed.
 */
import type { BlockDevice } from '@qcow2/block-device';
import type { ImageEncryption, NewEncryption } from '@qcow2/driver';
import { cryptMethods } from '@qcow2/spec';
import { readHeader } from './gather-facts.ts';
import type { ListedOption, OptionValues } from './option-list.ts';
import type { Secrets } from './secrets.ts';

const text = (name: string, help: string): ListedOption => ({
  name: `encrypt.${name}`,
  type: 'string',
  help,
});

/** In the order of the "Formatting" line. */
export const encryptionOptions: readonly ListedOption[] = [
  text('format', "Encrypt the image, format choices: 'luks'"),
  text('key-secret', 'ID of secret providing the LUKS passphrase'),
  text('cipher-alg', 'Name of encryption cipher algorithm'),
  text('cipher-mode', 'Name of encryption cipher mode'),
  text('ivgen-alg', 'Name of IV generator algorithm'),
  text('ivgen-hash-alg', 'Name of IV generator hash algorithm'),
  text('hash-alg', 'Name of encryption hash algorithm'),
  { name: 'encrypt.iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
];

export interface EncryptionSettings {
  readonly secretId: string;
  readonly cipherName?: string;
  readonly cipherBits?: number;
  readonly cipherMode?: string;
  readonly ivGenerator?: string;
  readonly ivHash?: string;
  readonly hashName?: string;
  readonly unlockMs?: number;
}

const ciphers: Readonly<Record<string, readonly [name: string, bits: number]>> = {
  'aes-128': ['aes', 128],
  'aes-192': ['aes', 192],
  'aes-256': ['aes', 256],
  sm4: ['sm4', 128],
};
/** QEMU's, which OpenSSL has not. */
const foreignCiphers = /^(des|3des|cast5-128|(serpent|twofish)-(128|192|256))$/;
const modes = ['ecb', 'cbc', 'xts', 'ctr'];
const generators = ['plain', 'plain64', 'essiv'];
const hashes = ['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'];
const longestUnlockMs = 10 * 60 * 1000;

/** @returns undefined where no encryption is asked for. @throws CommandFailure, with qemu-img's words */
export function encryptionSettings(
  values: OptionValues,
  refuse: (message: string) => never,
): EncryptionSettings | undefined {
  const given = (name: string): string | undefined => values.get(`encrypt.${name}`)?.text;
  const oneOf = (name: string, choices: readonly string[]): string | undefined => {
    const value = given(name);
    if (value === undefined || choices.includes(value)) return value;
    return refuse(`Parameter '${name}' does not accept value '${value}'`);
  };
  const format = given('format');
  if (format === undefined) {
    if (encryptionOptions.some(({ name }) => values.has(name)))
      refuse("Parameter 'encrypt.format' is missing");
    return undefined;
  }
  if (format === 'aes')
    refuse("Parameter 'encrypt.format': images are read and written with 'aes', not made");
  oneOf('format', ['luks']);
  const cipher = given('cipher-alg');
  if (cipher !== undefined && foreignCiphers.test(cipher)) refuse(`Cipher '${cipher}' is not supported`);
  const [cipherName, cipherBits] = ciphers[oneOf('cipher-alg', Object.keys(ciphers)) ?? 'aes-256']!;
  const secretId = given('key-secret');
  if (secretId === undefined) return refuse("Parameter 'encrypt.key-secret' is required for cipher");
  return {
    secretId,
    cipherName,
    cipherBits,
    ...present({
      cipherMode: oneOf('cipher-mode', modes),
      ivGenerator: oneOf('ivgen-alg', generators),
      ivHash: oneOf('ivgen-hash-alg', hashes),
      hashName: oneOf('hash-alg', hashes),
      unlockMs: unlockTime(values, refuse),
    }),
  };
}

function unlockTime(values: OptionValues, refuse: (message: string) => never): number | undefined {
  const value = values.get('encrypt.iter-time')?.value;
  if (typeof value !== 'bigint') return undefined;
  if (value > BigInt(longestUnlockMs)) refuse(`Parameter 'encrypt.iter-time' is at most ${longestUnlockMs}`);
  return Number(value);
}

function present<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** What makes the image encrypted. @throws CommandFailure where the secret is not there */
export async function newEncryption(
  { secretId, ...choice }: EncryptionSettings,
  secrets: Secrets,
  subject: string,
): Promise<NewEncryption> {
  const passphrase = secrets.bytes(secretId, `${subject}: `);
  const { newLuks } = await import('@qcow2/crypto');
  return newLuks({ ...choice, passphrase });
}

/** What opens an image by a secret, after the crypt method of its header where no format is given. */
export async function imageEncryption(
  device: BlockDevice,
  passphrase: Uint8Array,
  format?: 'aes' | 'luks',
): Promise<ImageEncryption> {
  const { legacyAes, luksPassphrase } = await import('@qcow2/crypto');
  const isAes = format === undefined && (await readHeader(device)).cryptMethod === cryptMethods.aes;
  return isAes || format === 'aes' ? legacyAes(passphrase) : luksPassphrase(passphrase);
}
