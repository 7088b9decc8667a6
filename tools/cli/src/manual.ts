/** The man page, made from the commands' own data: what help says, in the form that man reads. */
import type { OptionSpec } from './arguments.ts';
import type { DescribedCommand } from './described-command.ts';

/** @param program the name that the page is about */
export function manualPage(program: string, commands: readonly DescribedCommand[]): string {
  const lines = [
    `.TH ${escaped(program.toUpperCase())} 1 "" "" "User Commands"`,
    '.SH NAME',
    `${program} \\- qcow2 disk images, with a metadata journal`,
    '.SH SYNOPSIS',
    `.B ${program}`,
    '.I COMMAND',
    '[\\fIOPTIONS\\fR] \\fIARGUMENTS\\fR',
    '.SH DESCRIPTION',
    'Makes, converts, serves, checks and inspects disk images in the qcow2 format. Commands, options, texts and exit codes are those of',
    '.BR qemu-img (1)',
    'and',
    '.BR qemu-nbd (8)',
    'where these have them.',
    '.SH COMMANDS',
    ...commands.flatMap(commandLines),
    '.SH EXIT STATUS',
    '0 on success, 1 on failure;',
    '.B check',
    'exits with 2 for corruptions, 3 for leaks, 63 where the format has no checks.',
    '.SH ENVIRONMENT',
    '.TP',
    '.B QCOW2_DEBUG',
    'With the value 1, errors show where in the program they came from.',
  ];
  return `${lines.join('\n')}\n`;
}

function commandLines({ name, summary, operands, options, notes }: DescribedCommand): string[] {
  return [
    `.SS "${escaped(`${name} [OPTIONS] ${operands}`.trimEnd())}"`,
    `${escaped(sentence(summary))}`,
    ...options.flatMap((option) => ['.TP', `.B ${escaped(optionTitle(option))}`, escaped(option.help ?? '')]),
    ...(notes === undefined ? [] : ['.PP', '.nf', ...notes.split('\n').map(escaped), '.fi']),
  ];
}

function optionTitle(option: OptionSpec): string {
  const names = option.short === undefined ? `--${option.name}` : `-${option.short}, --${option.name}`;
  return option.argument === undefined ? names : `${names} ${option.argument}`;
}

function sentence(text: string): string {
  return text === '' ? '' : `${text[0]!.toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;
}

/** A dash is a dash, a backslash one, and a line that begins with a dot or a quote no request. */
function escaped(text: string): string {
  const plain = text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq')
    .replaceAll(
      /[^\n -~]/gu,
      (sign) => `\\[u${sign.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}]`,
    );
  return /^[.']/.test(plain) ? `\\&${plain}` : plain;
}
