/**
 * A turn of QEMU's: the image is closed, at rest, and qemu-io or qemu-img changes it. Then both check it, both show it, and we go on.
 *
 * What QEMU is known to do otherwise is not asked for here: a compressed write over a cluster that is there (it leaks that one);
 * snapshots where a refcount has no room (it finds that out half way); a larger disk where the old one ended within a cluster
 * (it shows what a smaller disk hid), or that a version 2 image would have to hide a backing file from (it can not). And in one process no
 * compressed write where it might go into somebody's data (`packed-clusters.ts`).
 */

import type { SeededRandom } from '@qcow2/seeded';
import { Disagreement } from './disagreement.ts';
import { drawClusters, drawRange, wholeClusters } from './guest-operations.ts';
import { drawSize, isNarrow } from './image-operations.ts';
import { PackedClusters } from './packed-clusters.ts';
import type { Operation, Scene } from './scene.ts';
import { drawJournal } from './subject.ts';
import { verifyClosed, verifyOpen } from './verification.ts';

interface Turn {
  readonly name: string;
  readonly weight: number;
  may?(scene: Scene): boolean;
  /** Returns what was done. */
  take(scene: Scene, random: SeededRandom): string;
}

/** One request, as qemu-io has it, and what the model makes of it. */
function request(scene: Scene, random: SeededRandom, packed: PackedClusters): string[] {
  const { kind, model } = scene;
  const doing = random.pick(['write', 'write', 'write', 'zero', 'unmap', 'discard', 'compressed'] as const);
  if (doing === 'discard') {
    const { offset, lengthBytes } = drawRange(scene, random, [512, kind.clusterBytes]);
    discard(scene, offset, lengthBytes);
    packed.replace(offset, lengthBytes, false);
    return [`discard ${offset} ${lengthBytes}`];
  }
  if (doing === 'compressed') {
    const clears = kind.version > 2 || kind.backing === 'none';
    if (kind.data !== 'inside' || kind.encryption !== 'none' || !clears) return ['flush'];
    const { offset, lengthBytes } = drawClusters(scene, random, 3);
    const byte = random.below(256);
    if (!packed.mayGoOn) return ['flush'];
    discard(scene, offset, lengthBytes);
    model.fill(offset, lengthBytes, byte);
    packed.pack(offset, lengthBytes);
    return [`discard ${offset} ${lengthBytes}`, `write -c -P ${byte} ${offset} ${lengthBytes}`];
  }
  const { offset, lengthBytes } = drawRange(scene, random);
  const byte = doing === 'write' ? 1 + random.below(255) : 0;
  model.fill(offset, lengthBytes, byte);
  // Zeros too are data where they are not whole clusters.
  packed.replace(offset, lengthBytes, true);
  const how = { write: `write -P ${byte}`, zero: 'write -z', unmap: 'write -z -u' }[doing];
  return [`${how} ${offset} ${lengthBytes}`];
}

/** Over a backing file version 2 has no zeros. */
function discard(scene: Scene, offset: number, lengthBytes: number): void {
  const { kind, model } = scene;
  const keeps = kind.version === 2 && kind.backing !== 'none';
  const zeroed = keeps ? { start: 0, end: 0 } : wholeClusters(scene, { offset, lengthBytes });
  model.discard(offset, lengthBytes, zeroed);
}

/** What one process of qemu-io is to do. */
export function drawRequests(scene: Scene, random: SeededRandom): string[] {
  const packed = new PackedClusters(scene.kind.clusterBytes);
  return Array.from({ length: 1 + random.below(5) }, () => request(scene, random, packed)).flat();
}

function requests(scene: Scene, random: SeededRandom): string {
  const commands = drawRequests(scene, random);
  scene.qemu.io(commands);
  return commands.join('; ');
}

function canCount({ kind }: Scene): boolean {
  return kind.data === 'inside' && !isNarrow(kind);
}

function createSnapshot(scene: Scene): string {
  const name = scene.newName('s');
  scene.qemu.mustImage('snapshot', ['-c', name]);
  scene.model.createSnapshot(name);
  return `snapshot -c ${name}`;
}

function applySnapshot({ qemu, model }: Scene, random: SeededRandom): string {
  const one = random.pick(model.snapshots);
  qemu.mustImage('snapshot', ['-a', one.name]);
  model.applySnapshot(one);
  return `snapshot -a ${one.name}`;
}

function deleteSnapshot({ qemu, model }: Scene, random: SeededRandom): string {
  const one = random.pick(model.snapshots);
  qemu.mustImage('snapshot', ['-d', one.name]);
  model.deleteSnapshot(one);
  return `snapshot -d ${one.name}`;
}

function mayResize({ kind, model }: Scene): boolean {
  return !(kind.version === 2 && model.snapshots.length > 0);
}

/** Bitmaps get the new size as well. */
function resize(scene: Scene, random: SeededRandom): string {
  const { kind, model, qemu } = scene;
  const drawn = drawSize(scene, random, kind.clusterBytes);
  const mayGrow =
    model.sizeBytes % kind.clusterBytes === 0 && !(kind.version === 2 && kind.backing !== 'none');
  const wanted = mayGrow ? drawn : Math.min(drawn, model.sizeBytes);
  const sizeBytes =
    wanted === model.sizeBytes ? wanted - (wanted % kind.clusterBytes || kind.clusterBytes) : wanted;
  const words = sizeBytes < model.sizeBytes ? ['--shrink'] : [];
  qemu.mustImage('resize', ['-q', ...words], [`${sizeBytes}`]);
  model.resize(sizeBytes);
  return `resize to ${sizeBytes}`;
}

/** In a cluster of one or two sectors the header may have no room for them. */
function mayAddBitmap(scene: Scene): boolean {
  const { kind, model } = scene;
  return kind.version > 2 && kind.clusterBytes >= 4096 && !hasDraft(scene) && model.bitmaps.length < 4;
}

function addBitmap(scene: Scene, random: SeededRandom): string {
  const name = scene.newName('b');
  const granularityBytes = random.pick([512, 4096, 65536]);
  const enabled = random.below(4) > 0;
  const words = ['--add', '-g', `${granularityBytes}`, ...(enabled ? [] : ['--disable'])];
  scene.qemu.mustImage('bitmap', words, [name]);
  scene.model.addBitmap(name, granularityBytes, enabled);
  return `bitmap ${words.join(' ')} ${name}`;
}

function changeBitmap({ qemu, model }: Scene, random: SeededRandom): string {
  const one = random.pick(model.bitmaps);
  const other = random.pick(model.bitmaps);
  const doing = random.pick(['remove', 'enable', 'disable', 'clear', 'merge'] as const);
  const words = doing === 'merge' ? ['--merge', other.name] : [`--${doing}`];
  qemu.mustImage('bitmap', words, [one.name]);
  if (doing === 'remove') model.removeBitmap(one);
  else if (doing === 'clear') model.clearBitmap(one);
  else if (doing === 'merge') model.mergeBitmap(one, other);
  else one.enabled = doing === 'enable';
  return `bitmap ${words.join(' ')} ${one.name}`;
}

function hasDraft({ lastProfile }: Scene): boolean {
  return lastProfile === 'draft-2013';
}

const turns: readonly Turn[] = [
  { name: 'requests', weight: 8, take: requests },
  {
    name: 'snapshot create',
    weight: 2,
    may: (scene) => canCount(scene) && scene.model.snapshots.length < 4,
    take: createSnapshot,
  },
  {
    name: 'snapshot apply',
    weight: 2,
    // QEMU refuses it beside bitmaps, as we do.
    may: (scene) => canCount(scene) && scene.model.snapshots.length > 0 && scene.model.bitmaps.length === 0,
    take: applySnapshot,
  },
  {
    name: 'snapshot delete',
    weight: 2,
    may: ({ model }) => model.snapshots.length > 0,
    take: deleteSnapshot,
  },
  { name: 'resize', weight: 2, may: mayResize, take: resize },
  { name: 'bitmap add', weight: 1, may: mayAddBitmap, take: addBitmap },
  { name: 'bitmap change', weight: 2, may: ({ model }) => model.bitmaps.length > 0, take: changeBitmap },
  {
    name: 'check -r all',
    weight: 1,
    // It would take the draft's journal for leaks. And where it has to write the header first, for bitmaps or to clear a bit that it
    // does not know, it forgets the snapshots.
    may: ({ lastProfile, model }) =>
      lastProfile !== 'draft-2013' &&
      (model.snapshots.length === 0 || (lastProfile === undefined && model.bitmaps.length === 0)),
    take: ({ qemu }) => {
      qemu.mustImage('check', ['-q', '-r', 'all']);
      return 'check -r all';
    },
  },
];

/** After a writer that does not know it, the clusters of the draft's journal are leaks, and no more than they (ADR 11). */
async function giveDraftBack(scene: Scene, random: SeededRandom, lengthBytes: number): Promise<void> {
  const { kind, qemu, subject } = scene;
  const found = await subject.check();
  if (found.corruptions > 0 || found.leaks !== lengthBytes / kind.clusterBytes) {
    throw new Disagreement(
      `of the draft's journal: ${found.findings.map(({ message }) => message).join('; ')}`,
    );
  }
  if (random.chance(2)) qemu.mustImage('check', ['-q', '-r', 'leaks']);
  else await subject.repair('leaks');
  scene.lastProfile = undefined;
}

export const qemuOperations: readonly Operation[] = [
  {
    name: 'qemu',
    weight: 6,
    run: async (scene, random) => {
      scene.tell('qemu');
      await scene.close();
      const turn = random.weighted(turns.filter(({ may }) => may?.(scene) ?? true));
      scene.tell(`qemu ${turn.name}`);
      const draft = hasDraft(scene) ? (await scene.subject.check()).journal : undefined;
      scene.tell(`qemu: ${turn.take(scene, random)}`);
      scene.tally.qemuTurns++;
      if (draft !== undefined) await giveDraftBack(scene, random, draft.lengthBytes);
      await verifyClosed(scene, random);
      await scene.open(random);
      await verifyOpen(scene);
      if (draft !== undefined)
        await scene.subject.image.enableJournal(drawJournal(random, scene.kind, 'draft'));
    },
  },
];
