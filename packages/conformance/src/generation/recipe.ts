/**
 * What a recipe for a golden vector is: the commands that make it, in order, as data. The recipes stand in
 * `recipes.ts`, and `make-vectors.ts` runs them in an empty folder. A step is a command of QEMU, a source file of
 * ours that a command reads, or a patch of ours to a file that QEMU made (used where the interesting
 * thing is what QEMU does about it). The image is always `image.qcow2`.
 */
export type Step =
  | { readonly kind: 'run'; readonly argv: readonly string[]; readonly aborts?: true }
  | {
      readonly kind: 'make';
      readonly file: string;
      readonly lengthBytes: number;
      readonly content: SourceContent;
    }
  | { readonly kind: 'patch'; readonly file: string; readonly offset: number; readonly hex: string };

/** `text` deflates well and repeats itself after 97 lines; `noise` does not deflate at all; `fill-AB` is one byte. */
export type SourceContent = 'text' | 'noise' | `fill-${string}`;

export interface Recipe {
  readonly name: string;
  /** Which part of the format the vector is there for. */
  readonly why: string;
  readonly steps: readonly Step[];
  /** Files beside the image that readers of it need. */
  readonly companions?: readonly Companion[];
  /** The image is encrypted: QEMU needs the passphrase to read it. */
  readonly encrypted?: true;
}

export interface Companion {
  readonly name: string;
  readonly role: 'backing' | 'data';
}

export const imageName = 'image.qcow2';
/** Every encrypted vector has this passphrase. */
export const passphrase = 'golden';
export const secretObject = ['--object', `secret,id=key,data=${passphrase}`] as const;
/** How an encrypted image is named on QEMU's command lines. */
export const encryptedImage = `driver=qcow2,encrypt.key-secret=key,file.driver=file,file.filename=${imageName}`;

export const make = (file: string, lengthBytes: number, content: SourceContent): Step => ({
  kind: 'make',
  file,
  lengthBytes,
  content,
});

export const patch = (file: string, offset: number, hex: string): Step => ({
  kind: 'patch',
  file,
  offset,
  hex,
});

export const qemuImg = (...argv: string[]): Step => ({ kind: 'run', argv: ['qemu-img', ...argv] });

/** `qemu-img create` of the image with these `-o` options (none: ''). */
export function create(options: string, size: string, ...more: string[]): Step {
  const withOptions = options === '' ? [] : ['-o', options];
  return qemuImg('create', '-q', '-f', 'qcow2', ...withOptions, ...more, imageName, size);
}

/** qemu-io commands on the image; unmap is allowed, so that discard and `write -zu` do what they say. */
export function io(...commands: string[]): Step {
  return {
    kind: 'run',
    argv: ['qemu-io', '-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), imageName],
  };
}

/** The same, ended by an abort: what a killed QEMU leaves behind. */
export function ioThenAbort(...commands: string[]): Step {
  const argv = ['qemu-io', '-f', 'qcow2', ...[...commands, 'abort'].flatMap((c) => ['-c', c]), imageName];
  return { kind: 'run', argv, aborts: true };
}

/** qemu-io commands on the encrypted image. */
export function encryptedIo(...commands: string[]): Step {
  return {
    kind: 'run',
    argv: ['qemu-io', ...secretObject, '--image-opts', ...commands.flatMap((c) => ['-c', c]), encryptedImage],
  };
}

/** A raw file, written through qemu-io. */
export function rawFile(name: string, size: string, ...commands: string[]): Step[] {
  return [
    qemuImg('create', '-q', '-f', 'raw', name, size),
    { kind: 'run', argv: ['qemu-io', '-f', 'raw', ...commands.flatMap((c) => ['-c', c]), name] },
  ];
}

export const snapshot = (option: '-c' | '-a' | '-d', name: string): Step =>
  qemuImg('snapshot', option, name, imageName);

export const bitmap = (name: string, ...options: string[]): Step =>
  qemuImg('bitmap', ...options, '-f', 'qcow2', imageName, name);
