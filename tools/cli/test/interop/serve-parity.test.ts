/** Wrong options of `serve` beside the real qemu-nbd: the same refusal, the same words, the same exit code. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeKeys } from '../support/certificates.ts';
import { hookLimitMs, must, type Outcome, run, scratchFolder } from '../support/command.ts';
import { CommandProcess } from '../support/command-process.ts';
import { describeWith } from '../support/peers.ts';
import { serveCases } from '../support/serve-cases.ts';

describeWith(['qemu-img', 'qemu-nbd'], 'serve beside qemu-nbd', () => {
  const scratch = scratchFolder();
  const command = new CommandProcess();
  const socket = join(scratch.path, 'socket');
  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '16M'], { cwd: scratch.path });
    must('qemu-img', ['snapshot', '-c', 'one', 'disk.qcow2'], { cwd: scratch.path });
    writeFileSync(join(scratch.path, 'disk.raw'), new Uint8Array(65536));
    makeKeys(join(scratch.path, 'keys'), { alice: '00112233445566778899aabbccddeeff' });
  }, hookLimitMs);
  afterAll(async () => {
    await command.end();
    scratch.remove();
  });

  for (const { args, deviation, ignoreStderr = false } of serveCases) {
    const words = ['-t', '-k', socket, ...args];
    const suffix = deviation === undefined ? '' : ` differs: ${deviation}`;
    it(`qemu-nbd ${args.join(' ')}${suffix}`, async () => {
      const theirs = told(run('qemu-nbd', words, { cwd: scratch.path }), ignoreStderr);
      const ours = told(await command.run(['serve', ...words], scratch.path), ignoreStderr);
      expect(theirs.status).toBe(1);
      if (deviation === undefined) expect(ours).toEqual(theirs);
      else expect(ours).not.toEqual(theirs);
    });
  }
});

/** Without the program's name, and the line that points to its help. */
function told({ status, stdout, stderr }: Outcome, ignoreStderr: boolean): Outcome {
  const lines = stderr.trimEnd().split('\n');
  const said = lines
    .filter((line) => !/^(qemu-img: |qemu-nbd: )?Try [`']/.test(line))
    .map((line) => line.replace(/^(qemu-img|qemu-nbd): /, ''))
    .join('\n');
  return { status, stdout, stderr: ignoreStderr && said !== '' ? '(something)' : said };
}
