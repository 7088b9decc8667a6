/** `bench`: requests of one kind, so many at a time, and how long they took. qemu-img's options and lines. */
import { type BlockDevice, checkRange } from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import { checkCacheMode, targetCacheOption } from '../cache-modes.ts';
import type { Command, CommandContext } from '../command.ts';
import { imageOptions, namingRules, openDiskImage, shareOption } from '../disk-image.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { sizeArgument } from '../size-option.ts';

export const bench: Command = {
  operands: 'FILE',
  options: [
    ...imageOptions,
    { name: 'count', short: 'c', argument: 'N', help: 'requests (default 75000)' },
    { name: 'depth', short: 'd', argument: 'N', help: 'requests under way at once (default 64)' },
    { name: 'flush-interval', argument: 'N', help: 'with -w: a flush after so many requests' },
    { name: 'aio', short: 'i', argument: 'MODE', help: 'threads, and nothing else' },
    { name: 'native', short: 'n', refused: 'files are used through the page cache' },
    { name: 'no-drain', help: 'a flush does not wait for the requests before it' },
    { name: 'offset', short: 'o', argument: 'OFFSET', help: 'of the first request (default 0)' },
    { name: 'pattern', argument: 'BYTE', help: 'with -w: what is written (default 0)' },
    { name: 'quiet', short: 'q', help: 'taken, and without effect, as in qemu-img' },
    { name: 'buffer-size', short: 's', argument: 'SIZE', help: 'bytes of a request (default 4k)' },
    { name: 'step-size', short: 'S', argument: 'SIZE', help: 'from one request to the next (default: -s)' },
    targetCacheOption,
    { name: 'write', short: 'w', help: 'write, in place of reading' },
    shareOption,
  ],
  notes:
    'With -w the content of the image is written over.\nExample:\n  qcow2 bench -c 10000 -d 16 -s 64k disk.qcow2',
  run: runBench,
};

interface Requests {
  readonly count: number;
  readonly depth: number;
  readonly writes: boolean;
  readonly bufferBytes: number;
  readonly stepBytes: number;
  readonly offset: number;
  readonly pattern: number;
  /** Requests between flushes; 0: none. */
  readonly flushInterval: number;
  readonly drains: boolean;
}

const most = 2 ** 31 - 1;
const mostDepth = 65535;

async function runBench(args: ParsedArguments, context: CommandContext): Promise<number> {
  const requests = requestsOf(args, context);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const { writes, flushInterval, depth } = requests;
  if (!writes && flushInterval > 0) {
    throw new CommandFailure('--flush-interval is only available in write tests');
  }
  if (flushInterval > 0 && flushInterval < depth) {
    throw new CommandFailure("Flush interval can't be smaller than depth");
  }
  const rules = namingRules(args, context);
  const image = await openDiskImage(name, { format: args.value('format'), readOnly: !writes }, rules);
  try {
    const { count, bufferBytes, offset, stepBytes } = requests;
    context.out(
      `Sending ${count} ${writes ? 'write' : 'read'} requests, ${bufferBytes} bytes each, ${depth} in parallel ` +
        `(starting at offset ${offset}, step size ${stepBytes})\n`,
    );
    if (flushInterval > 0) context.out(`Sending flush every ${flushInterval} requests\n`);
    const beganMs = performance.now();
    await send(image.device, requests);
    context.out(`Run completed in ${((performance.now() - beganMs) / 1000).toFixed(3)} seconds.\n`);
  } catch (error) {
    if (!(error instanceof Qcow2Error) || error instanceof CommandFailure) throw error;
    throw new CommandFailure('Failed request: Input/output error', { cause: error });
  } finally {
    await image.close();
  }
  return 0;
}

function requestsOf(args: ParsedArguments, context: CommandContext): Requests {
  const integer = (option: string, subject: string, otherwise: number, from: number, to: number): number => {
    const text = args.value(option);
    if (text === undefined) return otherwise;
    const value = /^\d+$/.test(text) ? Number(text) : -1;
    if (value >= from && value <= to) return value;
    throw new CommandFailure(`Invalid ${subject} specified`);
  };
  const size = (option: string, subject: string, otherwise: number, largest: number): number => {
    const text = args.value(option);
    if (text === undefined) return otherwise;
    const bytes = sizeArgument(text, subject, context);
    if (bytes <= largest) return bytes;
    throw new CommandFailure(`Invalid ${subject} specified. Must be between 0 and ${largest}.`);
  };
  const aio = args.value('aio') ?? 'threads';
  if (aio === 'native' || aio === 'io_uring') throw new CommandFailure(`aio=${aio} is not supported`);
  if (aio !== 'threads') throw new CommandFailure(`Invalid aio option: ${aio}`);
  try {
    checkCacheMode(args.value('cache'), 'cache');
  } catch (cause) {
    throw new CommandFailure('Invalid cache mode', { cause });
  }
  const bufferBytes = size('buffer-size', 'buffer size', 4096, most);
  const stepBytes = size('step-size', 'step_size', 0, most);
  return {
    count: integer('count', 'request count', 75000, 0, most),
    depth: integer('depth', 'queue depth', 64, 1, mostDepth),
    writes: args.has('write'),
    bufferBytes,
    stepBytes: stepBytes === 0 ? bufferBytes : stepBytes,
    offset: size('offset', 'offset', 0, Number.MAX_SAFE_INTEGER),
    pattern: integer('pattern', 'pattern byte', 0, 0, 255),
    flushInterval: integer('flush-interval', 'flush interval', 0, 0, most),
    drains: !args.has('no-drain'),
  };
}

/** All of them; with a flush interval in rounds, each of which ends with a flush that waits for it, or does not. */
async function send(device: BlockDevice, requests: Requests): Promise<void> {
  const { count, flushInterval, drains, bufferBytes, pattern } = requests;
  if (count === 0) return;
  checkRange(requests.offset, bufferBytes, device.sizeBytes);
  // All requests share it: nobody looks at what is read.
  const buffer = new Uint8Array(bufferBytes).fill(pattern);
  const round = flushInterval === 0 ? count : flushInterval;
  const flushes: (void | Promise<void>)[] = [];
  for (let first = 0; first < count; first += round) {
    const end = Math.min(count, first + round);
    if (drains || flushInterval === 0) await sendRound(device, requests, buffer, first, end);
    else flushes.push(sendRound(device, requests, buffer, first, end));
    if (flushInterval === 0 || end - first < round) continue;
    if (drains) await device.flush();
    else flushes.push(device.flush());
    // What is under way is bounded: no more than two rounds.
    if (flushes.length > 2) await Promise.all(flushes.splice(0));
  }
  await Promise.all(flushes);
}

/** Requests `first` to `end`, no more than `depth` at once. */
async function sendRound(
  device: BlockDevice,
  requests: Requests,
  buffer: Uint8Array,
  first: number,
  end: number,
): Promise<void> {
  const { depth, writes, stepBytes, offset } = requests;
  const { sizeBytes } = device;
  let next = first;
  const work = async (): Promise<void> => {
    while (next < end) {
      const number = next++;
      // Behind the end it begins again.
      const at = (offset + number * stepBytes) % sizeBytes;
      await (writes ? device.write(at, buffer) : device.read(at, buffer));
    }
  };
  await Promise.all(Array.from({ length: Math.min(depth, end - first) }, work));
}
