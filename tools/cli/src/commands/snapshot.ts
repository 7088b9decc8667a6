/** `snapshot`: list, make, apply and delete internal snapshots. qemu-img's options, texts and exit codes. */
import { decodeName, encodeName } from '@qcow2/codec';
import type { Qcow2Image } from '@qcow2/driver';
import { type ErrorCode, Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, describeError, usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { snapshotsText } from '../image-report.ts';
import { imageNameOptions, namedImage } from '../named-image.ts';
import { namedFacts } from '../open-image.ts';
import { withWritableImage } from '../writable-image.ts';

export const snapshot: Command = {
  operands: 'FILE',
  options: [
    { name: 'list', short: 'l', help: 'list all snapshots' },
    { name: 'create', short: 'c', argument: 'NAME', help: 'make a snapshot of the disk' },
    {
      name: 'apply',
      short: 'a',
      argument: 'NAME',
      help: 'give the disk the content of a snapshot: an id, or a name',
    },
    { name: 'delete', short: 'd', argument: 'NAME', help: 'delete a snapshot: a name' },
    ...followOptions,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    { name: 'force-share', short: 'U', help: 'list also if somebody may be writing to it' },
    ...imageNameOptions,
  ],
  notes:
    'What -a replaces is gone, unless a snapshot has it. The size of the disk is part of a snapshot.\n' +
    'Example:\n' +
    '  qcow2 snapshot -c before-upgrade disk.qcow2',
  run: runSnapshot,
};

const verbs = ['list', 'create', 'apply', 'delete'] as const;

async function runSnapshot(args: ParsedArguments, context: CommandContext): Promise<number> {
  const asked = verbs.flatMap((verb) => args.values(verb).map((argument) => ({ verb, argument })));
  if (asked.length > 1) throw usageFailure("Cannot mix '-l', '-a', '-c', '-d'");
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const named = namedImage(args, name);
  const [action] = asked;
  if (action?.verb === 'list') {
    const { qcow2 } = await namedFacts(named, { shared: args.has('force-share') });
    const lines = snapshotsText(qcow2?.snapshots ?? []);
    if (lines.length > 0) context.out(`${lines.join('\n')}\n`);
    return 0;
  }
  if (args.has('force-share')) {
    throw new CommandFailure(
      `Could not open '${name}': force-share=on can only be used with read-only images`,
    );
  }
  await withWritableImage(
    named,
    { follow: followPolicy(args) },
    async (image) => {
      if (action !== undefined) await change(image, action.verb, action.argument);
    },
    () => {
      if (action !== undefined) refuseRaw(action.verb, action.argument);
    },
  );
  return 0;
}

/** As long a name as qemu-img takes over; the rest of a longer one is left out. */
const mostNameBytes = 255;

async function change(image: Qcow2Image, verb: (typeof verbs)[number], text: string): Promise<void> {
  switch (verb) {
    case 'create':
      try {
        await image.createSnapshot({ name: cutName(text) });
      } catch (error) {
        const failure = `Could not create snapshot '${text}': ${systemReason(error)}`;
        throw new CommandFailure(failure, { cause: error });
      }
      return;
    case 'apply': {
      // They would speak of another disk: QEMU has it so too.
      if ((await image.bitmaps()).length > 0) throw applyFailure(text, 'Device has active dirty bitmaps');
      const found = image.snapshots.some(({ id, name }) => id === text || name === text);
      if (!found) throw applyFailure(text, 'Failed to load snapshot: No such file or directory');
      await image.applySnapshot(text).catch((error: unknown) => {
        throw applyFailure(text, describeError(error), error);
      });
      return;
    }
    default: {
      if (!image.snapshots.some(({ name }) => name === text)) throw deleteFailure(text, 'snapshot not found');
      await image.deleteSnapshot({ name: text }).catch((error: unknown) => {
        throw deleteFailure(text, describeError(error), error);
      });
    }
  }
}

function refuseRaw(verb: (typeof verbs)[number], text: string): never {
  if (verb === 'create') {
    throw new CommandFailure(`Could not create snapshot '${text}': ${systemReasons.UNSUPPORTED_OPERATION}`);
  }
  if (verb === 'apply') throw applyFailure(text, 'Block driver does not support snapshots');
  throw deleteFailure(text, 'snapshot not found');
}

function applyFailure(text: string, reason: string, cause?: unknown): CommandFailure {
  return new CommandFailure(`Could not apply snapshot '${text}': ${reason}`, { cause });
}

function deleteFailure(text: string, reason: string, cause?: unknown): CommandFailure {
  return new CommandFailure(`Could not delete snapshot '${text}': ${reason}`, { cause });
}

/** By bytes, as qemu-img cuts, in the middle of a character as well. */
function cutName(text: string): string {
  const bytes = encodeName(text);
  return bytes.length <= mostNameBytes ? text : decodeName(bytes.subarray(0, mostNameBytes));
}

/** qemu-img says the error number and the C library's words for it. */
const systemReasons: Readonly<Partial<Record<ErrorCode, string>>> = {
  INVALID_ARGUMENT: '-22 (Invalid argument)',
  LIMIT_EXCEEDED: '-27 (File too large)',
  NO_SPACE: '-28 (No space left on device)',
  UNSUPPORTED_OPERATION: '-95 (Operation not supported)',
};

function systemReason(error: unknown): string {
  return (error instanceof Qcow2Error ? systemReasons[error.code] : undefined) ?? describeError(error);
}
