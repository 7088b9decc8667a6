/** Images with extended L2 entries, we and QEMU by turns: every byte, the map, and both checks. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, type Outcome, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { type Random, runSeed, seededRandom } from '../support/random.ts';

const sizeBytes = 4 * 2 ** 20;
const belowBytes = sizeBytes - 300_000;
const clean: Outcome = { status: 0, stdout: '', stderr: '' };

interface Change {
  readonly kind: 'write' | 'zero' | 'unmap' | 'discard';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly pattern: number;
}

describeWith(['qemu-img', 'qemu-io'], 'images with extended L2 entries, shared with QEMU', () => {
  const scratch = scratchFolder();
  const seed = runSeed();
  const path = (name: string): string => join(scratch.path, name);
  const backed = path('base.raw');
  const below = new Uint8Array(belowBytes).map((_, at) => (at * 7 + (at >> 9)) & 255);
  writeFileSync(backed, below);
  afterAll(() => scratch.remove());

  for (const [number, clusterBytes] of [16384, 32768, 65536, 262_144, 2 ** 21].entries()) {
    for (const backing of [false, true]) {
      it(`[SUB-004, SUB-005, SUB-007, SUB-008, SUB-009] clusters of ${clusterBytes}, ${backing ? 'backed' : 'alone'}`, async () => {
        const random = seededRandom(seed + number * 2 + (backing ? 1 : 0));
        const image = path(`x${clusterBytes}-${backing}.qcow2`);
        const truth = new Uint8Array(sizeBytes);
        if (backing) truth.set(below);
        const options = `extended_l2=on,cluster_size=${clusterBytes}`;
        const base = backing ? ['-b', backed, '-F', 'raw'] : [];
        const arguments_ = ['create', '-q', '-f', 'qcow2', '-o', options, ...base, image, String(sizeBytes)];
        if (random.pick([true, false])) must('qemu-img', arguments_);
        else expect(qcow2(arguments_)).toEqual(clean);
        for (const turn of ['ours', 'theirs', 'ours', 'theirs']) {
          const changes = Array.from({ length: 10 }, () => randomChange(random, clusterBytes));
          if (turn === 'ours') await writeOurs(image, backing ? backed : undefined, changes);
          else writeTheirs(image, changes);
          for (const change of changes) apply(truth, change);
          const hint = `QCOW2_SEED=${seed}, after ${turn}`;
          expect(run('qemu-img', ['check', '-q', image]), hint).toEqual(clean);
          expect(qcow2(['check', '-q', image]), hint).toEqual(clean);
          writeFileSync(path('truth.raw'), truth);
          const compared = run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', path('truth.raw'), image]);
          expect(compared.stdout, hint).toBe('Images are identical.\n');
          const ours = await readOurs(image, backing ? backed : undefined);
          expect(Buffer.compare(ours.bytes, truth), hint).toBe(0);
          expect(ours.map, hint).toEqual(theirMap(image));
        }
        rmSync(image);
      });
    }
  }

  it('what info and map say of an image of ours is what they say of QEMU’s', () => {
    const [ours, theirs] = [path('ours.qcow2'), path('theirs.qcow2')];
    const options = [
      '-q',
      '-f',
      'qcow2',
      '-o',
      'extended_l2=on,preallocation=metadata',
      '-b',
      backed,
      '-F',
      'raw',
    ];
    expect(qcow2(['create', ...options, ours])).toEqual(clean);
    must('qemu-img', ['create', ...options, theirs]);
    expect(must('qemu-img', ['map', '--output=json', ours])).toBe(
      must('qemu-img', ['map', '--output=json', theirs]),
    );
    expect(must('qemu-img', ['info', ours]).includes('extended l2: true')).toBe(true);
    const info = qcow2(['info', '--output=json', ours]).stdout;
    expect(JSON.parse(info)['format-specific'].data['extended-l2']).toBe(true);
  });
});

function randomChange(random: Random, clusterBytes: number): Change {
  const unit = random.pick([512, 2048, clusterBytes / 32, clusterBytes]);
  const offset = random.between(0, sizeBytes / unit - 1) * unit;
  const longest = Math.max(1, Math.min(sizeBytes - offset, random.pick([unit, 4 * unit, 200_000])));
  const lengthBytes = Math.max(512, Math.floor(random.between(1, longest) / 512) * 512);
  const kind = random.pick(['write', 'write', 'write', 'zero', 'unmap', 'discard'] as const);
  return {
    kind,
    offset,
    lengthBytes: Math.min(lengthBytes, sizeBytes - offset),
    pattern: random.between(1, 255),
  };
}

/** A discard of whole clusters reads as zeros; of parts it does nothing. Both agree on that, and the test asks for zeros first. */
function apply(truth: Uint8Array, { kind, offset, lengthBytes, pattern }: Change): void {
  truth.fill(kind === 'write' ? pattern : 0, offset, offset + lengthBytes);
}

async function writeOurs(
  path: string,
  backing: string | undefined,
  changes: readonly Change[],
): Promise<void> {
  const image = await openImage(openFile(path), {
    backing: backing === undefined ? 'none' : openFile(backing),
  });
  for (const { kind, offset, lengthBytes, pattern } of changes) {
    if (kind === 'write') await image.write(offset, new Uint8Array(lengthBytes).fill(pattern));
    else await image.writeZeroes(offset, lengthBytes, { mayUnmap: kind !== 'zero' });
    if (kind === 'discard') await image.discard(offset, lengthBytes);
  }
  await image.close();
}

function writeTheirs(path: string, changes: readonly Change[]): void {
  const commands = changes.flatMap(({ kind, offset, lengthBytes, pattern }) => {
    if (kind === 'write') return [`write -P ${pattern} ${offset} ${lengthBytes}`];
    const zero = `write -z ${kind === 'zero' ? '' : '-u '}${offset} ${lengthBytes}`;
    return kind === 'discard' ? [zero, `discard ${offset} ${lengthBytes}`] : [zero];
  });
  must('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

/** What every part of the disk is: of the image (its data, or zeros), or of what is below. */
type Map = readonly { readonly start: number; readonly kind: string }[];

async function readOurs(path: string, backing: string | undefined): Promise<{ bytes: Uint8Array; map: Map }> {
  const device = backing === undefined ? 'none' : openFile(backing);
  const image = await openImage(openFile(path), { backing: device, readOnly: true });
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  const extents = await image.extents(0, sizeBytes);
  await image.close();
  // The map shows zeros that are not allocated as it shows those of the bitmap.
  const shown = (kind: string): string => (kind === 'hole' && backing === undefined ? 'zero' : kind);
  return { bytes, map: merged(extents.map(({ offset, kind }) => ({ start: offset, kind: shown(kind) }))) };
}

function theirMap(path: string): Map {
  const found: { start: number; depth: number; zero: boolean; data: boolean; present: boolean }[] =
    JSON.parse(must('qemu-img', ['map', '--output=json', path]));
  return merged(
    found.map(({ start, depth, zero, data, present }) => {
      if (depth > 0 || (!present && !zero)) return { start, kind: 'hole' };
      // Data that the host has as a hole is `zero` as well: that is the host's, not the image's.
      if (data) return { start, kind: 'data' };
      return { start, kind: 'zero' };
    }),
  );
}

/** Up to the end of what is below: behind it the map calls zeros what is nowhere. */
function merged(map: Map): Map {
  return map.filter(({ start, kind }, index) => {
    if (start > belowBytes - 4096) return false;
    return index === 0 || map[index - 1]!.kind !== kind;
  });
}
