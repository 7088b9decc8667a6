/**
 * Completion scripts for shells, made from the commands' own data: subcommands, their options, file names behind all else. What
 * a shell completes is what the parser takes; a test lets bash try it.
 */
import type { OptionSpec } from './arguments.ts';
import type { DescribedCommand } from './described-command.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

/** @param program the name that it is called by */
export function completionScript(
  shell: Shell,
  program: string,
  commands: readonly DescribedCommand[],
): string {
  const writers = { bash: bashScript, zsh: zshScript, fish: fishScript };
  return writers[shell](program, commands);
}

function words(option: OptionSpec): string[] {
  const long = [`--${option.name}`, ...(option.words ?? []).map((word) => `--${option.name}=${word}`)];
  return option.short === undefined ? long : [`-${option.short}`, ...long];
}

/** Words of an argument that lists them: `human|json`. */
function choices(option: OptionSpec): string[] {
  const { argument = '' } = option;
  return /^[a-z0-9-]+(\|[a-z0-9-]+)+$/.test(argument) ? argument.split('|') : [];
}

function bashScript(program: string, commands: readonly DescribedCommand[]): string {
  const cases = commands.map(({ name, options, actions }) => {
    const listed = options.filter((option) => choices(option).length > 0);
    const values = listed.map(
      (option) =>
        `        ${words(option).join('|')}) COMPREPLY=($(compgen -W '${choices(option).join(' ')}' -- "$word")); return;;`,
    );
    const all = [...actions, ...options.flatMap(words)].join(' ');
    return [
      `    ${name})`,
      ...(values.length === 0 ? [] : ['      case $before in', ...values, '      esac']),
      `      words='${all}';;`,
    ].join('\n');
  });
  const names = commands.map(({ name }) => name).join(' ');
  return `# Completion of ${program} for bash: source <(${program} completion bash)
_${program}_words() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${names} --help --version' -- "$word"))
    return
  fi
  case \${COMP_WORDS[1]} in
${cases.join('\n')}
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  elif [ "$COMP_CWORD" -eq 2 ]; then
    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _${program}_words ${program}
`;
}

/** Within single quotes, where zsh and fish end a description at some signs. */
function described(text: string): string {
  return text.replaceAll(/['[\]:\\]/g, ' ');
}

function zshScript(program: string, commands: readonly DescribedCommand[]): string {
  const argumentText = (option: OptionSpec): string => {
    if (option.argument === undefined) return '';
    const listed = choices(option);
    const action = listed.length > 0 ? `(${listed.join(' ')})` : '_files';
    return `:${described(option.argument)}:${action}`;
  };
  const cases = commands.map(({ name, options, actions }) => {
    const specs = options.flatMap((option) =>
      words(option).map((word) => `'*${word}[${described(option.help ?? '')}]${argumentText(option)}'`),
    );
    const first = actions.length > 0 ? [`'1:action:(${actions.join(' ')})'`] : [];
    return `    ${name}) _arguments ${[...specs, ...first, "'*:file:_files'"].join(' ')};;`;
  });
  const names = commands.map(({ name, summary }) => `    '${name}:${described(summary)}'`);
  return `#compdef ${program}
# Completion of ${program} for zsh: ${program} completion zsh > "\${fpath[1]}/_${program}"
_${program}() {
  local -a commands
  commands=(
${names.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${cases.join('\n')}
  esac
}
compdef _${program} ${program}
`;
}

function fishScript(program: string, commands: readonly DescribedCommand[]): string {
  const lines = [`# Completion of ${program} for fish: ${program} completion fish | source`];
  for (const { name, summary, options, actions } of commands) {
    lines.push(`complete -c ${program} -n __fish_use_subcommand -f -a ${name} -d '${described(summary)}'`);
    const within = `-n '__fish_seen_subcommand_from ${name}'`;
    if (actions.length > 0) lines.push(`complete -c ${program} ${within} -a '${actions.join(' ')}'`);
    for (const option of options) {
      const short = option.short === undefined ? '' : ` -s ${option.short}`;
      const listed = choices(option);
      const values =
        listed.length > 0 ? ` -x -a '${listed.join(' ')}'` : option.argument === undefined ? '' : ' -r';
      lines.push(
        `complete -c ${program} ${within}${short} -l ${option.name}${values} -d '${described(option.help ?? '')}'`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}
