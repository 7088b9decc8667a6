/** The options of `serve`, which are qemu-nbd's and some of our own, and what they say together. */
import type { OptionSpec, ParsedArguments } from './arguments.ts';
import type { CommandContext } from './command.ts';
import { CommandFailure } from './failures.ts';
import { followOptions } from './follow.ts';
import { objectOption } from './secrets.ts';
import type { JournalMode } from './served-image.ts';
import { type WantedSnapshot, wantedSnapshot } from './snapshot-choice.ts';
import type { WritePolicy } from './write-policy.ts';

export const serveOptions: readonly OptionSpec[] = [
  { name: 'socket', short: 'k', argument: 'PATH', help: 'listen on a unix socket' },
  { name: 'port', short: 'p', argument: 'PORT', help: 'TCP port (default 10809; 0: any that is free)' },
  { name: 'bind', short: 'b', argument: 'ADDRESS', help: 'TCP address (default 127.0.0.1)' },
  { name: 'read-only', short: 'r', help: 'refuse writes; the file is not touched' },
  {
    name: 'snapshot',
    short: 's',
    help: 'writes go to a temporary file that vanishes; the image is not touched',
  },
  {
    name: 'load-snapshot',
    short: 'l',
    argument: 'SNAPSHOT',
    help: 'serve this internal snapshot, read-only: an id or a name, or snapshot.id=…,snapshot.name=…',
  },
  { name: 'offset', short: 'o', argument: 'OFFSET', help: 'serve the disk from this byte on' },
  { name: 'persistent', short: 't', help: 'go on when the last client has gone' },
  { name: 'shared', short: 'e', argument: 'N', help: 'clients at a time (default 1, 0: no limit)' },
  { name: 'export-name', short: 'x', argument: 'NAME', help: 'name of the export (default: empty)' },
  { name: 'description', short: 'D', argument: 'TEXT', help: 'what listings show beside the name' },
  { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2 or raw; found by itself if not given' },
  {
    name: 'journal',
    argument: 'on|off|auto',
    help: 'on: give the image a journal first; off: take it away first; auto (default): as it is',
  },
  {
    name: 'journal-idle',
    argument: 'SECONDS',
    help: 'write back and mark the image as clean after so long without requests (default 5; 0: never)',
  },
  ...followOptions,
  { name: 'watch-socket', argument: 'PATH', help: 'a unix socket, the owner’s only, for qcow2 watch' },
  { name: 'verbose', short: 'v', help: 'say how to connect, who comes and goes, what fails' },
  { name: 'allocation-depth', short: 'A', help: 'say in which image of the chain bytes stand' },
  { name: 'bitmap', short: 'B', argument: 'NAME', help: 'say what a bitmap says has changed' },
  objectOption,
  { name: 'tls-creds', argument: 'ID', help: 'serve over TLS and not otherwise, with this --object' },
  { name: 'tls-authz', argument: 'ID', help: 'whose certificates let them in: an --object as well' },
  { name: 'list', short: 'L', help: 'say what another server offers, at --socket or --bind and --port' },
  { name: 'tls-hostname', argument: 'NAME', help: 'with --list: the name in that server’s certificate' },
  { name: 'fork', help: 'return when the server listens, and leave it in the background' },
  { name: 'pid-file', argument: 'PATH', help: 'write the id of the server’s process to this file' },
  {
    name: 'cache',
    argument: 'MODE',
    help: 'writethrough, directsync: each write is durable when it is answered; unsafe: flushes are not waited for; writeback (default), none: by flushes. Files are used through the page cache',
  },
  { name: 'nocache', short: 'n', help: 'the same as --cache=none' },
  { name: 'aio', argument: 'MODE', help: 'threads, native or io_uring: taken, and chosen by itself' },
  {
    name: 'discard',
    argument: 'MODE',
    help: 'unmap (or on): what clients discard becomes holes in the file; ignore (or off, default)',
  },
  {
    name: 'detect-zeroes',
    argument: 'MODE',
    help: 'on: writes of zeros take no space that is not there yet; unmap: and give it back, with --discard=unmap; off (default)',
  },
  {
    name: 'image-opts',
    help: "FILE is a list of QEMU's options: driver=qcow2,file.filename=…,l2-cache-size=…",
  },
  { name: 'trace', short: 'T', argument: 'PATTERN', refused: 'there are no trace points' },
  {
    name: 'selinux-label',
    argument: 'LABEL',
    refused: 'Node has no call for the label of a socket; start it in the context that it is to have',
  },
  {
    name: 'connect',
    short: 'c',
    argument: 'DEV',
    help: 'make it the block device DEV (/dev/nbd0), through nbd-client, until it is disconnected; goes to the background, unless -v',
  },
  { name: 'disconnect', short: 'd', help: 'disconnect the block device that stands in place of FILE' },
];

/** What is to be served of an image, and how. */
export interface ServePlan {
  readonly address: { readonly path: string } | { readonly host: string; readonly port: number };
  /** 0: no limit */
  readonly clients: number;
  readonly readOnly: boolean;
  /** What is written goes to a file that vanishes. */
  readonly temporary: boolean;
  readonly snapshot: WantedSnapshot | undefined;
  readonly offset: number;
  readonly journal: JournalMode;
  readonly idleSeconds: number | undefined;
  readonly discard: 'ignore' | 'unmap';
  readonly policy: WritePolicy;
}

/** @throws CommandFailure, in qemu-nbd's words where it has some */
export function servePlan(args: ParsedArguments, context: CommandContext): ServePlan {
  for (const name of ['aio', 'discard']) {
    if (args.values(name).length > 1) throw new CommandFailure(`--${name} can only be specified once`);
  }
  for (const name of ['tls-authz', 'tls-hostname']) {
    if (args.has(name) && !args.has('tls-creds')) {
      throw new CommandFailure(`--${name} is not permitted without --tls-creds`);
    }
  }
  if (args.has('tls-creds') && args.has('connect')) {
    throw new CommandFailure('TLS is not supported with a host device');
  }
  const discard = discardMode(args);
  const snapshot = wantedSnapshot(args.value('load-snapshot'), context, '`');
  return {
    address: addressOf(args),
    clients: clientLimit(args),
    readOnly: args.has('read-only') || snapshot !== undefined,
    temporary: args.has('snapshot'),
    snapshot,
    offset: diskOffset(args),
    journal: journalMode(args),
    idleSeconds: integerOption(args, 'journal-idle', 0, 86400),
    discard,
    policy: { durable: durability(args), zeroes: zeroDetection(args, discard) },
  };
}

function addressOf(args: ParsedArguments): ServePlan['address'] {
  const path = args.value('socket');
  if (path === undefined) {
    return { host: args.value('bind') ?? '127.0.0.1', port: integerOption(args, 'port', 0, 65535) ?? 10809 };
  }
  if (args.has('port') || args.has('bind')) {
    throw new CommandFailure('The --socket option is mutually exclusive with --port and --bind');
  }
  return { path };
}

function clientLimit(args: ParsedArguments): number {
  const text = args.value('shared') ?? '1';
  if (/^\d+$/.test(text) && Number(text) < 2 ** 31) return Number(text);
  throw new CommandFailure(`Invalid shared device number '${text}'`);
}

/** As C reads numbers: hexadecimal with 0x, octal with 0; no suffixes. */
function diskOffset(args: ParsedArguments): number {
  const text = args.value('offset') ?? '0';
  const match = /^\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)$/.exec(text);
  if (match === null) throw new CommandFailure(`Invalid offset '${text}'`);
  const [, sign, digits = ''] = match;
  const offset = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  if (sign === '-' && offset > 0n) {
    throw new CommandFailure(
      "Parameter 'offset' expects a non-negative number below 2^64\n" +
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
        'and exabytes, respectively.',
    );
  }
  if (offset >= 2n ** 64n) throw new CommandFailure(`Invalid offset '${text}'`);
  // More than a number can say is more than any disk has.
  return Math.min(Number(offset), Number.MAX_SAFE_INTEGER);
}

function journalMode(args: ParsedArguments): JournalMode {
  const mode = args.value('journal') ?? 'auto';
  if (mode === 'on' || mode === 'off' || mode === 'auto') return mode;
  throw new CommandFailure(`--journal must be on, off or auto, not '${mode}'`);
}

function discardMode(args: ParsedArguments): 'ignore' | 'unmap' {
  const mode = args.value('discard') ?? 'ignore';
  if (mode === 'ignore' || mode === 'off') return 'ignore';
  if (mode === 'unmap' || mode === 'on') return 'unmap';
  throw new CommandFailure(`Invalid discard mode \`${mode}'`);
}

const durabilities: ReadonlyMap<string, WritePolicy['durable']> = new Map([
  ['none', 'by flush'],
  ['off', 'by flush'],
  ['writeback', 'by flush'],
  ['writethrough', 'at once'],
  ['directsync', 'at once'],
  ['unsafe', 'never'],
]);

function durability(args: ParsedArguments): WritePolicy['durable'] {
  if (args.values('cache').length + args.values('nocache').length > 1) {
    throw new CommandFailure('-n and --cache can only be specified once');
  }
  const mode = args.has('nocache') ? 'none' : (args.value('cache') ?? 'writeback');
  const durable = durabilities.get(mode);
  if (durable === undefined) throw new CommandFailure(`Invalid cache mode \`${mode}'`);
  const aio = args.value('aio') ?? 'threads';
  if (!['threads', 'native', 'io_uring'].includes(aio)) throw new CommandFailure(`Invalid aio mode '${aio}'`);
  if (aio === 'native' && !['none', 'off', 'directsync'].includes(mode)) {
    const [file = ''] = args.operands;
    throw new CommandFailure(
      `Failed to blk_new_open '${file}': aio=native was specified, but it requires cache.direct=on, which was not specified.`,
    );
  }
  return durable;
}

function zeroDetection(args: ParsedArguments, discard: 'ignore' | 'unmap'): WritePolicy['zeroes'] {
  const mode = args.value('detect-zeroes') ?? 'off';
  if (mode !== 'off' && mode !== 'on' && mode !== 'unmap') {
    throw new CommandFailure(`Failed to parse detect_zeroes mode: invalid parameter value: ${mode}`);
  }
  if (mode === 'unmap' && discard === 'ignore') {
    throw new CommandFailure(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    );
  }
  return mode;
}

function integerOption(args: ParsedArguments, name: string, min: number, max: number): number | undefined {
  const text = args.value(name);
  if (text === undefined) return undefined;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new CommandFailure(`Invalid ${name} '${text}': expecting a number from ${min} to ${max}`);
}
