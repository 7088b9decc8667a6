/** The page that strangers paste from, run as it stands. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { run } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const clone = join(import.meta.dirname, '../../../..');

describeWith(['qemu-img', 'qemu-io', 'python3-libnbd'], 'docs/demo.md', () => {
  it('does what it says', () => {
    const page = readFileSync(join(clone, 'docs/demo.md'), 'utf8');
    const script = [...page.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block]) => block).join('\n');
    const outcome = run('sh', ['-ec', `${script}\nrm -r "$PWD"`], { cwd: clone });
    expect(outcome.stdout).toContain('the server is gone after');
    expect(outcome.stderr).toContain('Unsupported qcow2 feature(s): journal dirty');
    expect(outcome.stdout).toMatch(
      /Replayed the journal of 'disk\.qcow2'\nNo errors were found on the image\.\n/,
    );
    expect(outcome.stdout).toMatch(/\d+ flushed writes, \d+ places, all of them there\n$/);
    expect(outcome.status).toBe(0);
  });
});
