/** `check`: look at every reference and every refcount; with `-r`, put right what is wrong. qemu-img's texts and exit codes. */
import {
  type CheckFinding,
  type CheckReport,
  checkImage,
  type RepairFix,
  type RepairMode,
  repairImage,
} from '@qcow2/driver';
import type { ParsedArguments } from '../arguments.ts';
import {
  checkExitCode,
  checkExitCodes,
  checkJson,
  checkText,
  dryRepairJson,
  dryRepairText,
  repairText,
} from '../check-report.ts';
import type { Command, CommandContext } from '../command.ts';
import { dryRun, dryRunOption } from '../dry-run.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { type FollowPolicy, followOptions, followPolicy } from '../follow.ts';
import { readHeader } from '../gather-facts.ts';
import { jsonText } from '../json-text.ts';
import { imageNameOptions, type NamedImage, namedImage } from '../named-image.ts';
import { explainingOpen, type OpenedFile, openChain, openImageFile } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { Progress, progressOption, progressView } from '../progress.ts';
import { isProtocolName } from '../protocol-name.ts';

export const check: Command = {
  operands: 'FILE',
  options: [
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2; found by itself if not given' },
    outputOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    progressOption,
    { name: 'force-share', short: 'U', help: 'also if somebody may be writing to it' },
    ...followOptions,
    {
      name: 'repair',
      short: 'r',
      argument: 'leaks|all',
      help: 'lower refcounts that are too high, or repair all',
    },
    dryRunOption,
    { name: 'cache', short: 'T', argument: 'CACHE', refused: 'files are read through the page cache' },
    ...imageNameOptions,
  ],
  notes:
    'A journal that is to be replayed is looked through: the result is that of the image after recovery.\n' +
    'Without -r no name that stands in the image is followed: its tables are all that is looked at.\n' +
    'With -r it is replayed, if there is something to repair. What could be data of a damaged entry is no leak.\n' +
    'With --dry-run the exit code is that of the image as it is.\n' +
    'Exit codes: 0 sound, 1 the check could not be done, 2 corruptions, 3 leaks only,\n' +
    '63 a format without checks.',
  run: runCheck,
};

async function runCheck(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  const follow = followPolicy(args);
  const repair = repairMode(args);
  const named = namedImage(args, name);
  if (repair !== undefined)
    return await dryRun(args.has('dry-run'), () =>
      runRepair(
        named,
        { repair, output, follow, quiet: args.has('quiet'), dry: args.has('dry-run') },
        args,
        context,
      ),
    );
  if (args.has('dry-run')) throw usageFailure('--dry-run goes with -r: a check without it writes nothing');
  try {
    return await lookThrough(named, args, output, context);
  } catch (error) {
    throw named.explain(error);
  }
}

async function lookThrough(
  { fileName: name, format, secrets }: NamedImage,
  args: ParsedArguments,
  output: ReturnType<typeof outputFormat>,
  context: CommandContext,
): Promise<number> {
  const opened = await openImageFile(name, {
    format,
    readOnly: true,
    shared: args.has('force-share'),
    secrets,
  });
  try {
    refuseRaw(opened);
    // Nothing that is checked is encrypted: no secret is asked for.
    const report = await explainingOpen(name, async () => {
      await readHeader(opened.device);
      return await shown(args, context, opened.device, (onProgress) =>
        checkImage(opened.device, { onProgress }),
      );
    });
    printFindings(report, context);
    if (!args.has('quiet')) {
      context.out(
        output === 'json'
          ? `${jsonText(checkJson(isProtocolName(name) ? name : opened.path, report))}\n`
          : checkText(report),
      );
    }
    return checkExitCode(report);
  } finally {
    await opened.close();
  }
}

/** How far it is goes to standard error: standard output has the report, which programs read. */
async function shown<T>(
  args: ParsedArguments,
  context: CommandContext,
  { sizeBytes }: { readonly sizeBytes: number },
  work: (onProgress: (doneBytes: number) => void) => Promise<T>,
): Promise<T> {
  const view = progressView(args, context, context.err);
  if (view === undefined) return await work(() => {});
  const progress = new Progress(view, sizeBytes);
  try {
    const result = await work((doneBytes) => progress.reach(doneBytes));
    progress.complete();
    return result;
  } finally {
    progress.end();
  }
}

function repairMode(args: ParsedArguments): RepairMode | undefined {
  const value = args.value('repair');
  if (value === undefined || value === 'leaks' || value === 'all') return value;
  throw usageFailure(`Unknown option value for -r (expecting 'leaks' or 'all'): ${value}`);
}

interface RepairCommand {
  readonly repair: RepairMode;
  readonly output: ReturnType<typeof outputFormat>;
  readonly follow: FollowPolicy;
  readonly quiet: boolean;
  readonly dry: boolean;
}

async function runRepair(
  named: NamedImage,
  command: RepairCommand,
  args: ParsedArguments,
  context: CommandContext,
): Promise<number> {
  const { repair, output, follow, quiet, dry } = command;
  const chain = await openChain(named, { follow, readOnly: false, dryRun: dry });
  try {
    refuseRaw(chain.top);
    const { device, path } = chain.top;
    const fileBytes = device.sizeBytes;
    const report = await explainingOpen(named.fileName, async () => {
      await readHeader(device);
      return await shown(args, context, device, (onProgress) =>
        repairImage(device, { ...chain.opening, repair, onProgress }),
      );
    }).catch((error: unknown) => {
      throw named.explain(error);
    });
    const { found, left, fixes, corruptionsFixed, leaksFixed } = report;
    const isFixed = corruptionsFixed + leaksFixed > 0;
    if (isFixed) printFindings(found, context);
    for (const fix of fixes) context.err(`${fixLine(fix, dry)}\n`);
    const more = corruptionsFixed + leaksFixed - fixes.length;
    if (more > 0) context.err(`… and ${more} more\n`);
    if (dry) {
      const lengths = { fileBytes, fileBytesAfter: device.sizeBytes };
      const json = (): string => `${jsonText(dryRepairJson(path, report, lengths))}\n`;
      if (!quiet) context.out(output === 'json' ? json() : dryRepairText(report, lengths));
      return checkExitCode(found);
    }
    printFindings(left, context);
    if (!quiet) {
      const text = (isFixed ? repairText(report) : '') + checkText(left);
      context.out(output === 'json' ? `${jsonText(checkJson(path, left, report))}\n` : text);
    }
    return checkExitCode(left);
  } finally {
    await chain.close();
  }
}

function refuseRaw(opened: OpenedFile): void {
  const { format } = opened;
  if (format === 'qcow2') return;
  // QEMU checks the other foreign ones.
  const isUnchecked = format === 'raw' || format === 'vpc';
  throw new CommandFailure(
    isUnchecked
      ? 'This image format does not support checks'
      : `Images of format '${format}' are not checked`,
    { exitCode: checkExitCodes.unsupported },
  );
}

function printFindings(report: CheckReport, context: CommandContext): void {
  for (const finding of report.findings) context.err(`${findingLine(finding)}\n`);
  const shown = report.findings.length;
  const found = report.corruptions + report.leaks + report.checkErrors;
  if (shown < found) context.err(`… and ${found - shown} more\n`);
  if (report.checkErrors > 0) context.err(`${context.programName}: Check failed\n`);
}

function fixLine({ message, hostOffset, guestOffset }: RepairFix, dry: boolean): string {
  const where = places({ hostOffset, guestOffset });
  return `${dry ? 'Would repair' : 'Repaired'}: ${message}${where.length === 0 ? '' : ` (${where.join(', ')})`}`;
}

/** One line for a finding: how bad, what, where, and the clause that it breaks. */
function findingLine(finding: CheckFinding): string {
  const { severity, message, hostOffset, guestOffset, clause } = finding;
  const where = [...places({ hostOffset, guestOffset }), ...(clause === undefined ? [] : [clause])].filter(
    (part) => !message.includes(part),
  );
  const context = where.length === 0 ? '' : ` (${where.join(', ')})`;
  return `${severity === 'leak' ? 'Leak' : 'ERROR'}: ${message}${context}`;
}

function places({ hostOffset, guestOffset }: Pick<CheckFinding, 'hostOffset' | 'guestOffset'>): string[] {
  return [
    ...(hostOffset === undefined ? [] : [`host offset 0x${hostOffset.toString(16)}`]),
    ...(guestOffset === undefined ? [] : [`guest offset 0x${guestOffset.toString(16)}`]),
  ];
}
