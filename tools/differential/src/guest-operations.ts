/** What a guest asks for: reads, writes of all sizes, compressed ones, zeros, discards, flushes; one by one, and at once. */

import type { SeededRandom } from '@qcow2/seeded';
import { drawContent } from './content.ts';
import { Disagreement } from './disagreement.ts';
import type { Operation, Refusal, Scene } from './scene.ts';
import { expectBytes } from './verification.ts';

interface Range {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Of the disk: on a boundary of some unit, or on none. */
export function drawRange(scene: Scene, random: SeededRandom, units?: readonly number[]): Range {
  const { sizeBytes } = scene.model;
  const { clusterBytes } = scene.kind;
  const unit = random.pick(units ?? [1, 1, 512, 4096, clusterBytes]);
  const offset = random.below(Math.ceil(sizeBytes / unit)) * unit;
  const longest = random.pick([100, 512, 4096, 20_000, 200_000, 3 * clusterBytes]);
  const lengthBytes = Math.ceil((1 + random.below(longest)) / unit) * unit;
  return { offset, lengthBytes: Math.min(lengthBytes, sizeBytes - offset) };
}

/** Whole clusters, the last of the disk perhaps incomplete. */
export function drawClusters(scene: Scene, random: SeededRandom, most: number): Range {
  const { clusterBytes } = scene.kind;
  const { sizeBytes } = scene.model;
  const offset = random.below(Math.ceil(sizeBytes / clusterBytes)) * clusterBytes;
  const lengthBytes = (1 + random.below(most)) * clusterBytes;
  return { offset, lengthBytes: Math.min(lengthBytes, sizeBytes - offset) };
}

/** Which whole clusters a range has: the incomplete last one of the disk is whole. */
export function wholeClusters({ kind, model }: Scene, { offset, lengthBytes }: Range) {
  const { clusterBytes } = kind;
  const start = Math.ceil(offset / clusterBytes) * clusterBytes;
  const end = offset + lengthBytes;
  const whole = end === model.sizeBytes ? end : Math.floor(end / clusterBytes) * clusterBytes;
  return { start, end: Math.max(start, whole) };
}

async function readRange(scene: Scene, { offset, lengthBytes }: Range): Promise<void> {
  const seen = new Uint8Array(lengthBytes);
  await scene.subject.image.read(offset, seen);
  expectBytes(seen, scene.model.bytes.subarray(offset, offset + lengthBytes), 'we read', offset);
}

/** Of a version 2 disk over a backing file a discard may leave what was there, cluster by cluster. */
async function discard(scene: Scene, range: Range): Promise<void> {
  const { kind, model, subject } = scene;
  const { clusterBytes } = kind;
  const zeroed = wholeClusters(scene, range);
  await subject.image.discard(range.offset, range.lengthBytes);
  if (kind.version > 2 || kind.backing === 'none') {
    model.discard(range.offset, range.lengthBytes, zeroed);
    return;
  }
  model.discard(range.offset, range.lengthBytes, { start: 0, end: 0 });
  for (let start = zeroed.start; start < zeroed.end; start += clusterBytes) {
    const end = Math.min(zeroed.end, start + clusterBytes);
    const seen = new Uint8Array(end - start);
    await subject.image.read(start, seen);
    if (seen.every((byte) => byte === 0)) model.discard(start, end - start, { start, end });
  }
}

function compressionRefusals({ kind }: Scene): Refusal[] {
  const refused = kind.data !== 'inside' || kind.encryption !== 'none';
  return refused ? [{ code: 'UNSUPPORTED_OPERATION', comes: 'certainly' }] : [];
}

/** Writes, zeros and reads in stretches that do not meet, with a flush among them, all at once. */
async function burst(scene: Scene, random: SeededRandom): Promise<void> {
  const { model, subject } = scene;
  const parts = 2 + random.below(6);
  const partBytes = Math.floor(model.sizeBytes / parts);
  const requests: (void | Promise<void>)[] = [];
  const reads: { offset: number; seen: Uint8Array }[] = [];
  for (let part = 0; part < parts; part++) {
    const from = random.below(partBytes);
    const offset = part * partBytes + from;
    const lengthBytes = 1 + random.below(Math.min(partBytes - from, random.pick([1000, 70_000])));
    const doing = random.below(6);
    if (doing < 4) {
      const bytes = drawContent(random, lengthBytes);
      model.write(offset, bytes);
      requests.push(subject.image.write(offset, bytes, { fua: doing === 0 }));
    } else if (doing === 4) {
      model.fill(offset, lengthBytes, 0);
      requests.push(subject.image.writeZeroes(offset, lengthBytes, { mayUnmap: random.chance(2) }));
    } else {
      const seen = new Uint8Array(lengthBytes);
      reads.push({ offset, seen });
      requests.push(subject.image.read(offset, seen));
    }
    if (random.chance(5)) requests.push(subject.image.flush());
  }
  const settled = await Promise.allSettled(requests);
  for (const one of settled) if (one.status === 'rejected') throw one.reason;
  for (const { offset, seen } of reads) {
    expectBytes(seen, model.bytes.subarray(offset, offset + seen.length), 'we read', offset);
  }
}

export const guestOperations: readonly Operation[] = [
  {
    name: 'write',
    weight: 30,
    run: async (scene, random) => {
      const range = drawRange(scene, random);
      const fua = random.chance(6);
      scene.tell(`write ${range.offset} ${range.lengthBytes}${fua ? ' fua' : ''}`);
      const bytes = drawContent(random, range.lengthBytes);
      scene.model.write(range.offset, bytes);
      await scene.subject.image.write(range.offset, bytes, { fua });
      if (random.chance(3)) await readRange(scene, range);
    },
  },
  {
    name: 'compressed',
    weight: 8,
    run: async (scene, random) => {
      const { offset, lengthBytes } = drawClusters(scene, random, 4);
      scene.tell(`compressed ${offset} ${lengthBytes}`);
      const bytes = drawContent(random, lengthBytes);
      const { image } = scene.subject;
      const done = await scene.attempt(
        () => image.writeCompressed(offset, bytes),
        compressionRefusals(scene),
      );
      if (done) scene.model.write(offset, bytes);
    },
  },
  {
    name: 'zero',
    weight: 8,
    run: async (scene, random) => {
      const range = drawRange(scene, random);
      const mayUnmap = random.chance(2);
      scene.tell(`zero ${range.offset} ${range.lengthBytes}${mayUnmap ? ' unmap' : ''}`);
      scene.model.fill(range.offset, range.lengthBytes, 0);
      await scene.subject.image.writeZeroes(range.offset, range.lengthBytes, { mayUnmap });
      if (random.chance(3)) await readRange(scene, range);
    },
  },
  {
    name: 'discard',
    weight: 6,
    run: async (scene, random) => {
      const range = drawRange(scene, random, [512, scene.kind.clusterBytes]);
      scene.tell(`discard ${range.offset} ${range.lengthBytes}`);
      await discard(scene, range);
    },
  },
  {
    name: 'flush',
    weight: 8,
    run: async (scene) => {
      scene.tell('flush');
      await scene.subject.image.flush();
    },
  },
  {
    name: 'read',
    weight: 10,
    run: async (scene, random) => {
      const range = drawRange(scene, random);
      scene.tell(`read ${range.offset} ${range.lengthBytes}`);
      await readRange(scene, range);
    },
  },
  {
    name: 'burst',
    weight: 4,
    run: async (scene, random) => {
      scene.tell('burst');
      await burst(scene, random);
    },
  },
  {
    name: 'extents',
    weight: 1,
    run: async (scene) => {
      scene.tell('extents');
      const { model, subject } = scene;
      let end = 0;
      for (const { offset, lengthBytes, kind } of await subject.image.extents(0, model.sizeBytes)) {
        if (offset !== end) throw new Disagreement(`extents go on at ${offset}, not at ${end}`);
        end = offset + lengthBytes;
        if (kind !== 'zero') continue;
        const at = model.bytes.subarray(offset, end).findIndex((byte) => byte !== 0);
        if (at >= 0)
          throw new Disagreement(`an extent of zeros has ${model.bytes[offset + at]} at ${offset + at}`);
      }
      if (end !== model.sizeBytes) throw new Disagreement(`extents end at ${end}`);
    },
  },
];
