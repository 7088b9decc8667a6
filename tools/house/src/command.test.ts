import { describe, expect, test } from 'vitest';
import { runCommand } from './command.ts';

const node = process.execPath;
const cwd = import.meta.dirname;

describe('runCommand', () => {
  test('keeps both outputs and the exit status', async () => {
    const script = "console.log('out'); console.error('err'); process.exitCode = 3;";
    const result = await runCommand(node, ['-e', script], { cwd });
    expect(result).toMatchObject({ status: 3, trouble: undefined });
    expect(result.output).toContain('out\n');
    expect(result.output).toContain('err\n');
  });

  test('gives no standard input, and adds to the environment', async () => {
    const script = "process.stdin.on('end', () => console.log(process.env.GIVEN)).resume();";
    const result = await runCommand(node, ['-e', script], { cwd, env: { GIVEN: 'yes' } });
    expect(result).toEqual({ output: 'yes\n', status: 0, trouble: undefined });
  });

  test('ends what takes too long, and says so', async () => {
    const result = await runCommand(node, ['-e', 'setInterval(() => {}, 1000)'], { cwd, limitMs: 300 });
    expect(result).toMatchObject({ status: undefined, trouble: expect.stringContaining('took longer') });
  });

  test('reports a program that is not there', async () => {
    const result = await runCommand('qcow2-no-such-program', [], { cwd });
    expect(result).toMatchObject({
      status: undefined,
      trouble: expect.stringContaining('could not be started'),
    });
  });
});
