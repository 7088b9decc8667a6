/**
 * `verify`: read every byte of a disk, and say what it holds by a checksum for each GiB. What can not be read is named with its range; all else is
 * read all the same. Two disks with the same lines hold the same, whatever their formats.
 *
 * One buffer is read into; ranges that read as zeros by their mapping are not read, and a chunk of nothing else is computed once.
 */
import { createHash, type Hash } from 'node:crypto';
import { readPadded } from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import { blockStatuses } from '../block-status.ts';
import type { Command, CommandContext } from '../command.ts';
import { type DiskImage, imageOptions, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { jsonText } from '../json-text.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { parseSize } from '../sizes.ts';

export const verify: Command = {
  operands: 'FILE',
  options: [
    ...imageOptions,
    { name: 'hash', argument: 'sha256|sha512|sha1|md5', help: 'which checksum; default: sha256' },
    { name: 'chunk', argument: 'SIZE', help: 'bytes that one checksum covers; default: 1G' },
    outputOption,
    progressOption,
    shareOption,
  ],
  notes:
    'Exit code: 0 all was read, 1 something could not be.\n' +
    'Examples:\n' +
    '  qcow2 verify -p disk.qcow2\n' +
    '  diff <(qcow2 verify disk.qcow2) <(qcow2 verify copy.raw)',
  run: runVerify,
};

const hashNames = ['sha256', 'sha512', 'sha1', 'md5'];
const defaultChunkBytes = 2 ** 30;
const bufferBytes = 2 ** 20;
/** A range that fails is read again in pieces of this size, to find what of it is lost. */
const pieceBytes = 512;

interface Chunk {
  readonly offset: number;
  readonly lengthBytes: number;
  /** Undefined where some of it could not be read. */
  readonly digest: string | undefined;
}

interface Unreadable {
  readonly offset: number;
  lengthBytes: number;
  readonly reason: string;
}

async function runVerify(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const hash = args.value('hash') ?? 'sha256';
  if (!hashNames.includes(hash)) throw new CommandFailure(`--hash takes one of ${hashNames.join(', ')}`);
  const chunkBytes = chunkSize(args.value('chunk'));
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const image = await openDiskImage(name, { format: args.value('format') }, namingRules(args, context));
  const isText = output === 'human';
  const progress = new Progress(progressView(args, context, context.err), image.device.sizeBytes);
  try {
    const reading = new Reading(image, hash, chunkBytes, progress);
    const chunks: Chunk[] = [];
    for await (const chunk of reading.chunks()) {
      if (isText) context.out(chunkLine(chunk));
      else chunks.push(chunk);
    }
    for (const lost of reading.unreadable) context.err(`${context.programName}: ${lostText(lost)}\n`);
    if (!isText) context.out(`${jsonText(report(image, hash, chunks, reading.unreadable))}\n`);
    progress.complete();
    return reading.unreadable.length === 0 ? 0 : 1;
  } finally {
    progress.end();
    await image.close();
  }
}

function chunkSize(text: string | undefined): number {
  if (text === undefined) return defaultChunkBytes;
  const size = parseSize(text);
  if (
    typeof size === 'string' ||
    size.bytes < pieceBytes ||
    size.bytes > 2n ** 50n ||
    size.bytes % 512n !== 0n
  ) {
    throw new CommandFailure(`--chunk takes a multiple of 512 bytes, not '${text}'`);
  }
  return Number(size.bytes);
}

/** One pass over a disk. */
class Reading {
  readonly #image: DiskImage;
  readonly #hash: string;
  readonly #chunkBytes: number;
  readonly #progress: Progress;
  readonly #buffer = new Uint8Array(bufferBytes);
  readonly #zeros = new Uint8Array(bufferBytes);
  /** Checksums of zeros, by their length: of whole chunks, and of the last one. */
  readonly #zeroDigests = new Map<number, string>();
  /** In order; neighbours that failed for the same reason are one. */
  readonly unreadable: Unreadable[] = [];

  constructor(image: DiskImage, hash: string, chunkBytes: number, progress: Progress) {
    this.#image = image;
    this.#hash = hash;
    this.#chunkBytes = chunkBytes;
    this.#progress = progress;
  }

  async *chunks(): AsyncGenerator<Chunk> {
    const { sizeBytes } = this.#image.device;
    for (let offset = 0; offset < sizeBytes; offset += this.#chunkBytes) {
      const lengthBytes = Math.min(this.#chunkBytes, sizeBytes - offset);
      yield { offset, lengthBytes, digest: await this.#chunk(offset, lengthBytes) };
    }
  }

  async #chunk(offset: number, lengthBytes: number): Promise<string | undefined> {
    const failuresBefore = this.unreadable.length;
    const hash = createHash(this.#hash);
    // Zeros that are known wait: a chunk of nothing else is not worth its time.
    let zeros = 0;
    const addZeros = (): void => {
      for (; zeros > 0; zeros -= Math.min(zeros, bufferBytes)) {
        hash.update(this.#zeros.subarray(0, Math.min(zeros, bufferBytes)));
      }
    };
    let at = offset;
    try {
      for await (const range of blockStatuses(this.#image.layers, offset, lengthBytes)) {
        at = range.offset + range.lengthBytes;
        if (range.zero) {
          zeros += range.lengthBytes;
          this.#progress.advance(range.lengthBytes);
          continue;
        }
        addZeros();
        await this.#range(hash, range.offset, range.lengthBytes);
      }
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      // Where a table is damaged there is no status; what can be read all the same, reading tells.
      addZeros();
      await this.#range(hash, at, offset + lengthBytes - at);
    }
    if (this.unreadable.length > failuresBefore) return undefined;
    if (zeros === lengthBytes) return this.#zeroDigest(lengthBytes, hash, addZeros);
    addZeros();
    return hash.digest('hex');
  }

  #zeroDigest(lengthBytes: number, hash: Hash, addZeros: () => void): string {
    const known = this.#zeroDigests.get(lengthBytes);
    if (known !== undefined) return known;
    addZeros();
    const digest = hash.digest('hex');
    this.#zeroDigests.set(lengthBytes, digest);
    return digest;
  }

  async #range(hash: Hash, offset: number, lengthBytes: number): Promise<void> {
    for (let done = 0; done < lengthBytes; ) {
      const into = this.#buffer.subarray(0, Math.min(bufferBytes, lengthBytes - done));
      await this.#read(offset + done, into);
      hash.update(into);
      done += into.length;
      this.#progress.advance(into.length);
    }
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    const { device } = this.#image;
    try {
      await readPadded(device, offset, into);
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      if (into.length <= pieceBytes) {
        this.#lost(offset, into.length, describeError(error));
        return;
      }
      // Halves, and halves of these: a good half costs one read more, a bad sector a few.
      const half = Math.ceil(into.length / 2 / pieceBytes) * pieceBytes;
      await this.#read(offset, into.subarray(0, half));
      await this.#read(offset + half, into.subarray(half));
    }
  }

  #lost(offset: number, lengthBytes: number, reason: string): void {
    const last = this.unreadable.at(-1);
    if (last !== undefined && last.offset + last.lengthBytes === offset && last.reason === reason) {
      last.lengthBytes += lengthBytes;
    } else {
      this.unreadable.push({ offset, lengthBytes, reason });
    }
  }
}

function chunkLine({ offset, lengthBytes, digest }: Chunk): string {
  return `${digest ?? 'unreadable'}  0x${offset.toString(16)}  ${lengthBytes}\n`;
}

function lostText({ offset, lengthBytes, reason }: Unreadable): string {
  return `${lengthBytes} bytes at guest offset 0x${offset.toString(16)} can not be read: ${reason}`;
}

function report(image: DiskImage, hash: string, chunks: readonly Chunk[], lost: readonly Unreadable[]) {
  return {
    filename: image.name,
    format: image.format,
    'virtual-size': image.device.sizeBytes,
    hash,
    chunks: chunks.map(({ offset, lengthBytes, digest }) => ({ offset, length: lengthBytes, digest })),
    unreadable: lost.map(({ offset, lengthBytes, reason }) => ({ offset, length: lengthBytes, reason })),
  };
}
