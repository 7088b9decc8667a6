/** What a VMDK descriptor names is opened as other names in images are: as far as the caller's policy goes, and never for a disk that only looks like one. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hookLimitMs, qcow2, scratchFolder } from '../support/command.ts';

describe('names that stand in VMDK descriptors', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  const inScratch = (name: string): string => join(scratch.path, name);
  const descriptor = (name: string, extent: string): void => {
    const lines = ['# Disk DescriptorFile', 'version=1', 'CID=1', 'parentCID=ffffffff', 'createType="vmfs"'];
    writeFileSync(inScratch(name), `${[...lines, `RW 8 VMFS "${extent}"`].join('\n')}\n`.padEnd(512, '\n'));
  };
  beforeAll(async () => {
    mkdirSync(inScratch('jail'));
    writeFileSync(inScratch('secret'), 'what no client is to see'.padEnd(4096));
    writeFileSync(inScratch('jail/extent'), 'what may be seen'.padEnd(4096));
    descriptor('jail/inside.vmdk', 'extent');
    descriptor('jail/outside.vmdk', '../secret');
    descriptor('remote.vmdk', 'nbd://127.0.0.1:1/x');
    descriptor('json.vmdk', 'json:{}');
    descriptor('planted.raw', 'secret');
    const device = openFile(inScratch('guessing.qcow2'), { create: 'truncate' });
    await createImage(device, { sizeBytes: 2 ** 20, backingFile: 'planted.raw' });
    await device.close();
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const refusal = (...args: string[]): string => {
    const { status, stderr } = qcow2(args, folder);
    expect(status).toBe(1);
    return stderr;
  };

  it('are followed beside the image, and within the directory that is allowed', () => {
    expect(qcow2(['convert', '--confine', 'jail', 'jail/inside.vmdk', 'out.raw'], folder).status).toBe(0);
    expect(qcow2(['compare', '-F', 'raw', 'jail/inside.vmdk', 'jail/extent'], folder).status).toBe(0);
    expect(refusal('info', '--confine', 'jail', 'jail/outside.vmdk')).toContain('does not lie in');
  });

  it('are not followed for an image that is not trusted', () => {
    for (const command of ['info', 'map', 'measure']) {
      expect(refusal(command, '--untrusted', 'jail/inside.vmdk')).toContain('an image that is not trusted');
    }
  });

  it('are paths, and nothing else', () => {
    expect(refusal('info', 'remote.vmdk')).toContain("'nbd://127.0.0.1:1/x' is not followed");
    expect(refusal('info', '--allow-remote', 'remote.vmdk')).toContain('is named by a path');
    expect(refusal('info', 'json.vmdk')).toContain('is named by a path');
  });

  it('are not followed in a base that nobody says is an image: its guest may have written them', () => {
    const said = refusal('map', 'guessing.qcow2');
    expect(said).toContain("'secret' is not followed");
    expect(said).toContain('is an image and not a raw disk');
    expect(refusal('info', '--backing-chain', 'guessing.qcow2')).toContain("'secret' is not followed");
  });
});
