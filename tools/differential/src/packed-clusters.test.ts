/** What QEMU is not asked for within one process: a compressed write that would go into data. */
import { SeededRandom } from '@qcow2/seeded';
import { expect, it } from 'vitest';
import { DiskModel } from './disk-model.ts';
import { kindNamed } from './kinds.ts';
import { PackedClusters } from './packed-clusters.ts';
import { Qemu } from './qemu.ts';
import { drawRequests } from './qemu-operations.ts';
import { Scene } from './scene.ts';
import { Subject } from './subject.ts';

const kind = kindNamed('ordered-v3-512-r16')!;
const { clusterBytes } = kind;

/** Whether something compressed is compressed behind what was packed, gone, and may be data by then: by the commands alone. */
function goesIntoData(commands: readonly string[]): boolean {
  const events = commands.flatMap((text, at) => {
    const [, what, offset, length] = /^(discard|write)(?: .*)? (\d+) (\d+)$/.exec(text) ?? [];
    if (what === undefined) return [];
    const kind = what === 'discard' ? what : text.startsWith('write -c') ? 'pack' : 'data';
    return [{ at, kind, first: Number(offset), end: Number(offset) + Number(length) }];
  });
  return events.some((pack) =>
    events.some((gone) => {
      if (pack.kind !== 'pack' || gone.kind === 'pack' || gone.at < pack.at) return false;
      const meets =
        Math.floor(gone.first / clusterBytes) * clusterBytes < pack.end &&
        Math.ceil(gone.end / clusterBytes) * clusterBytes >
          Math.floor(pack.first / clusterBytes) * clusterBytes;
      const next = events.find(({ at, kind }) => kind === 'pack' && at > gone.at);
      const data = events.some(({ at, kind }) => kind === 'data' && at >= gone.at && at < (next?.at ?? 0));
      return meets && data;
    }),
  );
}

it('knows the commands by which it was found', () => {
  // Found with clusters of 16 KiB; here everything is a 32nd of that.
  const found = [
    'discard 3584 512',
    'write -c -P 179 3584 512',
    'write -P 14 3712 63',
    'write -P 239 2560 512',
    'discard 1536 512',
    'write -c -P 157 1536 512',
  ];
  expect(goesIntoData(found)).toBe(true);
  expect(goesIntoData(found.slice(0, 4))).toBe(false);
  expect(goesIntoData(found.filter((_, index) => index !== 2))).toBe(false);
});

it('is not drawn, and compressed writes behind one another are', () => {
  let packed = 0;
  let packedBesideData = 0;
  for (let seed = 0; seed < 4000; seed++) {
    const model = new DiskModel(new Uint8Array(12 * clusterBytes));
    const scene = new Scene(kind, new Subject(kind, ''), new Qemu('', false), model);
    const commands = drawRequests(scene, new SeededRandom(seed));
    expect(goesIntoData(commands), `seed ${seed}: ${commands.join('; ')}`).toBe(false);
    const packs = commands.filter((text) => text.startsWith('write -c')).length;
    if (packs > 1) packed++;
    if (packs > 1 && commands.some((text) => /^write -[Pz]/.test(text))) packedBesideData++;
  }
  expect(packed).toBeGreaterThan(200);
  expect(packedBesideData).toBeGreaterThan(100);
});

it('goes on where nothing is gone, where no data was written since, and where something was packed since', () => {
  const clusters = new PackedClusters(clusterBytes);
  clusters.pack(0, 2 * clusterBytes);
  clusters.replace(4 * clusterBytes, clusterBytes, true);
  clusters.replace(0, clusterBytes, false);
  expect(clusters.mayGoOn).toBe(true);
  clusters.pack(6 * clusterBytes, clusterBytes);
  clusters.replace(8 * clusterBytes, clusterBytes, true);
  expect(clusters.mayGoOn).toBe(true);
  clusters.replace(2 * clusterBytes - 1, 1, true);
  expect(clusters.mayGoOn).toBe(false);
});
