/** The completion scripts and the man page, tried with the programs that read them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { commandTable } from '../../src/command-table.ts';
import { must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const scratch = scratchFolder();
afterAll(() => scratch.remove());

const shown = commandTable.filter(({ hidden }) => hidden !== true).map(({ name }) => name);

/** What bash completes the last word of a line to. */
function completed(...line: string[]): string[] {
  const path = join(scratch.path, 'completion.bash');
  writeFileSync(path, printed(['completion', 'bash']));
  const words = line.map((word) => `'${word}'`).join(' ');
  const script = `source ${path}; COMP_WORDS=(${words}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _qcow2_words; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return must('bash', ['-c', script])
    .split('\n')
    .filter((word) => word !== '');
}

function printed(words: string[]): string {
  const { status, stdout, stderr } = qcow2(words);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout;
}

it('bash completes commands, options, words of options, actions', () => {
  expect(completed('qcow2', '')).toEqual([...shown, '--help', '--version']);
  expect(completed('qcow2', 'ins')).toEqual(['inspect']);
  expect(completed('qcow2', 'inspect', '--t')).toEqual(['--tables']);
  expect(completed('qcow2', 'inspect', '--output', '')).toEqual(['human', 'json']);
  expect(completed('qcow2', 'journal', 're')).toEqual(['resize', 'replay']);
});

it('the scripts for zsh and fish name every command and the options of each', () => {
  for (const shell of ['zsh', 'fish']) {
    const script = printed(['completion', shell]);
    for (const name of shown) expect(script).toContain(name);
    expect(script).toContain('force-share');
  }
});

describeWith(['groff'], 'the man page', () => {
  it('is read without a complaint, and has every command', () => {
    const path = join(scratch.path, 'qcow2.1');
    const page = printed(['manual']);
    writeFileSync(path, page);
    const outcome = run('groff', ['-man', '-Tutf8', '-ww', '-z', path]);
    expect(outcome).toEqual({ status: 0, stdout: '', stderr: '' });
    for (const name of shown) expect(page).toContain(`.SS "${name}`);
  });
});

it('a mistyped command is told what may be meant, but by qemu-img', () => {
  expect(qcow2(['inspcet', 'x']).stderr).toContain("Command not found: inspcet; did you mean 'inspect'?");
  expect(qcow2(['inspcet', 'x'], { programName: 'qemu-img' }).stderr).not.toContain('did you mean');
});
