/** Help texts, made from the same data that the arguments are parsed by. */
import type { OptionSpec } from './arguments.ts';
import type { Command, CommandEntry } from './command.ts';

export function programHelp(programName: string, entries: readonly CommandEntry[]): string {
  const shown = entries.filter((entry) => entry.hidden !== true);
  const width = Math.max(...shown.map((entry) => entry.name.length));
  return [
    `usage: ${programName} COMMAND [OPTIONS] ARGUMENTS`,
    'qcow2 disk images, with a metadata journal: a drop-in for qemu-img and qemu-nbd',
    '',
    'Commands:',
    ...shown.map((entry) => `  ${entry.name.padEnd(width)}  ${entry.summary}`),
    '',
    `  ${programName} COMMAND --help says more about one of them.`,
    '',
    'Options:',
    '  -h, --help     show this help',
    '  -V, --version  show the version',
    '',
  ].join('\n');
}

export function commandHelp(programName: string, entry: CommandEntry, command: Command): string {
  const served = command.options.filter((option) => option.refused === undefined);
  const refused = command.options.filter((option) => option.refused !== undefined);
  const titles = served.map(optionTitle);
  const width = Math.max(...titles.map((title) => title.length));
  const lines = [
    `usage: ${programName} ${entry.name} [OPTIONS] ${command.operands}`.trimEnd(),
    `${entry.name}: ${entry.summary}`,
    '',
    'Options:',
    ...served.map((option, at) => `  ${titles[at]?.padEnd(width)}  ${option.help ?? ''}`.trimEnd()),
  ];
  if (refused.length > 0) {
    lines.push('', `Not supported, and refused: ${refused.map(shortTitle).join(', ')}`);
  }
  if (command.notes !== undefined) lines.push('', command.notes);
  return `${lines.join('\n')}\n`;
}

function shortTitle(option: OptionSpec): string {
  return option.short === undefined ? `--${option.name}` : `-${option.short}`;
}

function optionTitle(option: OptionSpec): string {
  const short = option.short === undefined ? '    ' : `-${option.short}, `;
  return `${short}--${option.name}${option.argument === undefined ? '' : ` ${option.argument}`}`;
}
