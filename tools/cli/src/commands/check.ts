/** `check`: look at every reference and every refcount, change nothing. qemu-img's texts and exit codes. */
import { type CheckFinding, checkImage } from '@qcow2/driver';
import type { ParsedArguments } from '../arguments.ts';
import { checkExitCode, checkExitCodes, checkJson, checkText } from '../check-report.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { followOptions, followPolicy } from '../follow.ts';
import { readHeader } from '../gather-facts.ts';
import { jsonText } from '../json-text.ts';
import { explainingOpen, openImageFile } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';

export const check: Command = {
  operands: 'FILE',
  options: [
    { name: 'format', short: 'f', argument: 'FMT', help: 'qcow2; found by itself if not given' },
    outputOption,
    { name: 'quiet', short: 'q', help: 'print nothing but errors' },
    { name: 'force-share', short: 'U', help: 'also if somebody may be writing to it' },
    ...followOptions,
    { name: 'repair', short: 'r', argument: 'leaks|all', refused: 'check does not repair yet' },
    { name: 'cache', short: 'T', argument: 'CACHE', refused: 'files are read through the page cache' },
    { name: 'object', argument: 'OBJECT', refused: 'there are no secrets yet' },
    { name: 'image-opts', refused: 'not yet' },
  ],
  notes:
    'A journal that is to be replayed is looked through: the result is that of the image after recovery.\n' +
    'No name that stands in the image is followed, with those options and without: its tables are all that is looked at.\n' +
    'Exit codes: 0 sound, 1 the check could not be done, 2 corruptions, 3 leaks only,\n' +
    '63 a format without checks.',
  run: runCheck,
};

async function runCheck(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  followPolicy(args);
  const opened = await openImageFile(name, {
    format: args.value('format'),
    readOnly: true,
    shared: args.has('force-share'),
  });
  try {
    if (opened.format === 'raw') {
      throw new CommandFailure('This image format does not support checks', {
        exitCode: checkExitCodes.unsupported,
      });
    }
    const report = await explainingOpen(name, async () => {
      await readHeader(opened.device);
      return await checkImage(opened.device);
    });
    for (const finding of report.findings) context.err(`${findingLine(finding)}\n`);
    const shown = report.findings.length;
    const found = report.corruptions + report.leaks + report.checkErrors;
    if (shown < found) context.err(`… and ${found - shown} more\n`);
    if (report.checkErrors > 0) context.err(`${context.programName}: Check failed\n`);
    if (!args.has('quiet')) {
      context.out(output === 'json' ? `${jsonText(checkJson(opened.path, report))}\n` : checkText(report));
    }
    return checkExitCode(report);
  } finally {
    await opened.close();
  }
}

/** One line for a finding: how bad, what, where, and the clause that it breaks. */
function findingLine(finding: CheckFinding): string {
  const { severity, message, hostOffset, guestOffset, clause } = finding;
  const where = [
    ...(hostOffset === undefined ? [] : [`host offset 0x${hostOffset.toString(16)}`]),
    ...(guestOffset === undefined ? [] : [`guest offset 0x${guestOffset.toString(16)}`]),
    ...(clause === undefined ? [] : [clause]),
  ].filter((part) => !message.includes(part));
  const context = where.length === 0 ? '' : ` (${where.join(', ')})`;
  return `${severity === 'leak' ? 'Leak' : 'ERROR'}: ${message}${context}`;
}
