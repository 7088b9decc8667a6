/** Persistent bitmaps, shared with QEMU: the same words and exit codes, and each believes what the other has recorded. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

/** Each line is run by both, on images of their own. */
const cases: readonly string[] = [
  '--add a.qcow2 b0',
  '--add a.qcow2 b0',
  '--add -g 1000 a.qcow2 b1',
  '--add -g 256 a.qcow2 b1',
  '--add -g 4G a.qcow2 b1',
  '--add -g 3x a.qcow2 b1',
  '--add -g 0 a.qcow2 zero',
  '--remove a.qcow2 nope',
  '--clear a.qcow2 nope',
  '--enable a.qcow2 nope',
  '--merge nope a.qcow2 b0',
  '--add',
  '--add a.qcow2',
  '--add a.qcow2 x y',
  'a.qcow2 b0',
  '--add --remove a.qcow2 gone',
  '--enable --disable a.qcow2 b0',
  '--clear -g 64k a.qcow2 b0',
  '--clear -b a.qcow2 a.qcow2 b0',
  '--merge b2 -F qcow2 a.qcow2 b0',
  '--add --disable a.qcow2 b2',
  '--add --enable -g 4k a.qcow2 b7',
  '--merge b0 --merge b2 a.qcow2 b7',
  '--merge b7 a.qcow2 b0',
  '--merge b0 a.qcow2 b0',
  '--merge s -b small.qcow2 -F qcow2 a.qcow2 b0',
  '--merge t -b small.qcow2 -F qcow2 a.qcow2 b0',
  '--merge s -b same.qcow2 -F qcow2 a.qcow2 b0',
  '--remove missing.qcow2 b0',
  '--remove --clear a.qcow2 b7',
  '--frob a.qcow2 b0',
];

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'], 'bitmaps shared with QEMU', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());
  const at = (name: string): string => join(scratch.path, name);

  it('says and does what qemu-img does', () => {
    for (const name of ['a', 'small', 'same']) {
      must('qemu-img', ['create', '-q', '-f', 'qcow2', at(`${name}.qcow2`), name === 'small' ? '1M' : '64M']);
      if (name !== 'a') must('qemu-img', ['bitmap', '--add', at(`${name}.qcow2`), 's']);
    }
    must('qemu-io', ['-c', 'write 1M 100k', at('same.qcow2')]);
    copyFileSync(at('a.qcow2'), at('ours.qcow2'));
    copyFileSync(at('a.qcow2'), at('theirs.qcow2'));
    for (const line of cases) {
      const both = (['ours', 'theirs'] as const).map((side) => {
        const words = [
          'bitmap',
          ...line.split(' ').map((word) => (word === 'a.qcow2' ? `${side}.qcow2` : word)),
        ];
        const options = { cwd: scratch.path };
        const done =
          side === 'ours'
            ? qcow2(words, { ...options, programName: 'qemu-img' })
            : run('qemu-img', words, options);
        return { ...done, stderr: done.stderr.trimEnd() };
      });
      expect(both[0], line).toEqual(both[1]);
    }
    const described = (side: string): string => {
      const text = must('qemu-img', ['info', '--output=json', at(`${side}.qcow2`)]);
      return JSON.stringify(JSON.parse(text)['format-specific']);
    };
    expect(described('ours')).toBe(described('theirs'));
    must('qemu-img', ['check', '-q', at('ours.qcow2')]);
  });

  const dirtyFor = (image: string, bitmap: string): (readonly number[])[] => {
    const socket = at('nbd.sock');
    const script =
      `qemu-nbd -r -t -B ${bitmap} -k ${socket} ${image} & P=$!; while [ ! -S ${socket} ]; do sleep 0.05; done; ` +
      `nbdinfo --json --map=qemu:dirty-bitmap:${bitmap} nbd+unix:///?socket=${socket}; kill $P; wait $P; rm -f ${socket}`;
    const map: { offset: number; length: number; type: number }[] = JSON.parse(
      run('sh', ['-c', script]).stdout,
    );
    return map.filter(({ type }) => (type & 1) === 1).map(({ offset, length }) => [offset, length]);
  };

  for (const clusterBytes of [512, 4096, 65536]) {
    for (const journal of ['off', 'on']) {
      it(`clusters of ${clusterBytes}, journal ${journal}: both record, both believe`, async () => {
        const image = at(`w${clusterBytes}${journal}.qcow2`);
        const options = `cluster_size=${clusterBytes},journal=${journal}${journal === 'on' ? ',journal_size=1M' : ''}`;
        expect(qcow2(['create', '-q', '-f', 'qcow2', '-o', options, image, '64M']).status).toBe(0);
        must('qemu-img', ['bitmap', '--add', '-g', '4k', image, 'theirs']);
        expect(qcow2(['bitmap', '--add', '-g', '512', image, 'ours']).status).toBe(0);
        must('qemu-io', ['-c', 'write 1M 100k', '-c', 'write -z 30M 10k', image]);
        const file = openFile(image);
        const opened = await openImage(file);
        await opened.write(5_000_000, new Uint8Array(70_000).fill(3));
        await opened.write(2 ** 20 + 5, new Uint8Array(1000).fill(3));
        await opened.close();
        must('qemu-io', ['-c', 'write 40M 512', image]);
        for (const bitmap of ['theirs', 'ours']) {
          const reader = openFile(image, { readOnly: true });
          const looked = await openImage(reader, { readOnly: true });
          const ranges = await looked.dirtyRanges(bitmap);
          expect(ranges.length).toBe(4);
          expect(ranges.map(({ offset, lengthBytes }) => [offset, lengthBytes])).toEqual(
            dirtyFor(image, bitmap),
          );
          expect((await checkImage(reader)).findings).toEqual([]);
          await looked.close();
        }
        must('qemu-img', ['check', '-q', image]);
        const cut = 30 * 2 ** 20 + 2048;
        const left = dirtyFor(image, 'ours')
          .filter(([offset]) => offset! < cut)
          .map(([offset, length]) => [offset, Math.min(length!, cut - offset!)]);
        for (const size of [String(cut), '200M']) {
          expect(qcow2(['resize', '-q', '--shrink', image, size])).toMatchObject({ status: 0, stderr: '' });
          expect(dirtyFor(image, 'ours'), `[BMP-007] ${size}`).toEqual(left);
          must('qemu-img', ['check', '-q', image]);
        }
      });
    }
  }
});
