/**
 * What the owner of an image asks for: snapshots, another size, bitmaps, another journal, a check, another opening. Each knows what is
 * refused and by which code; whatever is refused changes nothing, which the next look at the image shows.
 */

import type { SeededRandom } from '@qcow2/seeded';
import { Disagreement } from './disagreement.ts';
import { firstDiskBytes, type Kind } from './kinds.ts';
import { type Operation, type Refusal, ringRefusals, type Scene } from './scene.ts';
import { drawJournal } from './subject.ts';
import { verifyOpen } from './verification.ts';

const mostSnapshots = 4;
const mostBitmaps = 4;

/** Refcounts that a few snapshots, or compressed data side by side, can fill. */
export function isNarrow({ refcountBits }: Kind): boolean {
  return refcountBits < 16;
}

function certainly(code: string, clause?: string): Refusal {
  return { code, comes: 'certainly', ...(clause === undefined ? {} : { clause }) };
}

function perhaps(code: string, clause?: string): Refusal {
  return { code, comes: 'perhaps', ...(clause === undefined ? {} : { clause }) };
}

function countRefusals(scene: Scene): Refusal[] {
  return [...(isNarrow(scene.kind) ? [perhaps('INVALID_ARGUMENT', 'SNP-025')] : []), ...ringRefusals(scene)];
}

async function createSnapshot(scene: Scene): Promise<void> {
  const { kind, model, subject } = scene;
  const name = scene.newName('s');
  scene.tell(`snapshot create ${name}`);
  const refusals =
    kind.data === 'inside' ? countRefusals(scene) : [certainly('UNSUPPORTED_OPERATION', 'SNP-020')];
  const create = () => subject.image.createSnapshot({ name, date: new Date(1_700_000_000_000) });
  if (await scene.attempt(create, refusals)) model.createSnapshot(name);
}

async function changeSnapshot(scene: Scene, random: SeededRandom, doing: 'apply' | 'delete'): Promise<void> {
  const { model, subject } = scene;
  const one = random.pick(model.snapshots);
  scene.tell(`snapshot ${doing} ${one.name}`);
  const { name } = one;
  if (doing === 'delete') {
    await scene.attempt(() => subject.image.deleteSnapshot({ name }), ringRefusals(scene));
    model.deleteSnapshot(one);
    return;
  }
  const refusals =
    model.bitmaps.length > 0 ? [certainly('UNSUPPORTED_OPERATION', 'BMT-005')] : countRefusals(scene);
  if (await scene.attempt(() => subject.image.applySnapshot({ name }), refusals)) model.applySnapshot(one);
}

/** Whole sectors, from half to one and a half of the first size. */
export function drawSize(scene: Scene, random: SeededRandom, unit: number): number {
  const first = firstDiskBytes(scene.kind);
  return Math.max(1, Math.floor((first / 2 + random.below(first)) / unit)) * unit;
}

async function resize(scene: Scene, random: SeededRandom): Promise<void> {
  const { kind, model, subject } = scene;
  const sizeBytes = drawSize(scene, random, random.pick([512, 512, kind.clusterBytes]));
  const shrink = random.below(5) > 0;
  const isSmaller = sizeBytes < model.sizeBytes;
  scene.tell(`resize ${model.sizeBytes} to ${sizeBytes}${shrink ? ' shrink' : ''}`);
  const refusals: Refusal[] =
    sizeBytes === model.sizeBytes
      ? []
      : isSmaller && !shrink
        ? [certainly('INVALID_ARGUMENT')]
        : kind.version === 2 && model.snapshots.length > 0
          ? [certainly('UNSUPPORTED_OPERATION', 'SNP-028')]
          : ringRefusals(scene);
  if (await scene.attempt(() => subject.image.resize(sizeBytes, { shrink }), refusals))
    model.resize(sizeBytes);
}

async function addBitmap(scene: Scene, random: SeededRandom): Promise<void> {
  const { kind, model, subject } = scene;
  const name = scene.newName('b');
  const granularityBytes = random.pick([512, 4096, 65536]);
  const enabled = random.below(4) > 0;
  scene.tell(`bitmap add ${name} ${granularityBytes}${enabled ? '' : ' disabled'}`);
  const refusals: Refusal[] =
    kind.version === 2
      ? [certainly('UNSUPPORTED_OPERATION', 'FEA-010')]
      : scene.profile === 'draft-2013'
        ? [certainly('UNSUPPORTED_OPERATION', 'JD13-BIND-008')]
        : [...ringRefusals(scene), ...(kind.clusterBytes < 4096 ? [perhaps('NO_SPACE')] : [])];
  const add = () => subject.image.addBitmap(name, { granularityBytes, enabled });
  if (await scene.attempt(add, refusals)) model.addBitmap(name, granularityBytes, enabled);
}

async function changeBitmap(scene: Scene, random: SeededRandom): Promise<void> {
  const { model } = scene;
  const { image } = scene.subject;
  const one = random.pick(model.bitmaps);
  const other = random.pick(model.bitmaps);
  const { name } = one;
  const doing = random.pick(['remove', 'enable', 'disable', 'clear', 'merge', 'merge'] as const);
  scene.tell(`bitmap ${doing} ${name}${doing === 'merge' ? ` of ${other.name}` : ''}`);
  const change = {
    remove: () => image.removeBitmap(name),
    enable: () => image.enableBitmap(name),
    disable: () => image.disableBitmap(name),
    clear: () => image.clearBitmap(name),
    merge: () => image.mergeBitmap(name, other.name),
  }[doing];
  if (!(await scene.attempt(change, ringRefusals(scene)))) return;
  if (doing === 'remove') model.removeBitmap(one);
  else if (doing === 'clear') model.clearBitmap(one);
  else if (doing === 'merge') model.mergeBitmap(one, other);
  else one.enabled = doing === 'enable';
}

/** Another journal, or none: the kind's own way above all. */
async function changeJournal(scene: Scene, random: SeededRandom): Promise<void> {
  const { kind, model } = scene;
  const { image } = scene.subject;
  const before = scene.profile;
  const own = kind.log === 'journal' ? 'v1' : kind.log === 'draft' ? 'draft-2013' : undefined;
  const wanted = random.pick([own, own, 'v1', 'draft-2013', undefined] as const);
  const sizes = drawJournal(random, kind, wanted === 'draft-2013' ? 'draft' : 'journal');
  scene.tell(`journal ${before ?? 'none'} to ${wanted ?? 'none'} ${JSON.stringify(sizes)}`);
  if (wanted === undefined) {
    if (before !== undefined) await image.disableJournal();
    return;
  }
  const noDraft = kind.compression === 'zstd' || kind.data !== 'inside' || model.bitmaps.length > 0;
  const refusals: Refusal[] =
    kind.version === 2
      ? [certainly('UNSUPPORTED_OPERATION')]
      : wanted === 'draft-2013' && noDraft
        ? [certainly('UNSUPPORTED_OPERATION')]
        : kind.clusterBytes < 4096
          ? [perhaps('NO_SPACE')]
          : [];
  const { sizeBytes = 0, blockBytes = 0 } = sizes;
  const change = () => {
    if (before === undefined) return image.enableJournal(sizes);
    return before === wanted ? image.resizeJournal({ sizeBytes, blockBytes }) : image.convertJournal(sizes);
  };
  await scene.attempt(change, refusals);
}

/** An image without fault: a repair finds nothing, and writes nothing. */
async function repairClosed(scene: Scene): Promise<void> {
  await scene.close();
  const { corruptionsFixed, leaksFixed, found } = await scene.subject.repair('all');
  if (corruptionsFixed + leaksFixed + found.corruptions + found.leaks === 0) return;
  throw new Disagreement(`check found: ${found.findings.map(({ message }) => message).join('; ')}`);
}

export const imageOperations: readonly Operation[] = [
  {
    name: 'snapshot create',
    weight: 4,
    may: ({ model }) => model.snapshots.length < mostSnapshots,
    run: createSnapshot,
  },
  {
    name: 'snapshot apply',
    weight: 3,
    may: ({ model }) => model.snapshots.length > 0,
    run: (scene, random) => changeSnapshot(scene, random, 'apply'),
  },
  {
    name: 'snapshot delete',
    weight: 3,
    may: ({ model }) => model.snapshots.length > 0,
    run: (scene, random) => changeSnapshot(scene, random, 'delete'),
  },
  { name: 'resize', weight: 4, run: resize },
  {
    name: 'bitmap add',
    weight: 2,
    may: ({ model }) => model.bitmaps.length < mostBitmaps,
    run: addBitmap,
  },
  {
    name: 'bitmap change',
    weight: 5,
    may: ({ model }) => model.bitmaps.length > 0,
    run: changeBitmap,
  },
  {
    name: 'bitmaps away',
    weight: 1,
    may: ({ model }) => model.bitmaps.length > 0,
    run: async (scene) => {
      scene.tell('bitmaps away');
      const { model, subject } = scene;
      for (const bitmap of model.bitmaps) {
        const remove = () => subject.image.removeBitmap(bitmap.name);
        if (await scene.attempt(remove, ringRefusals(scene))) model.removeBitmap(bitmap);
      }
    },
  },
  { name: 'journal', weight: 1, run: changeJournal },
  {
    name: 'rest',
    weight: 2,
    run: async (scene) => {
      scene.tell('rest');
      await scene.subject.image.quiesce();
      const { findings } = await scene.subject.check();
      if (findings.length === 0) return;
      throw new Disagreement(`our check at rest: ${findings.map(({ message }) => message).join('; ')}`);
    },
  },
  {
    name: 'look',
    weight: 2,
    run: async (scene) => {
      scene.tell('look at everything');
      await verifyOpen(scene);
    },
  },
  {
    name: 'reopen',
    weight: 4,
    run: async (scene, random) => {
      scene.tell('reopen');
      await scene.close();
      await scene.open(random);
      scene.tell(`reopen ${scene.subject.how}`);
      await verifyOpen(scene);
    },
  },
  {
    name: 'check and repair',
    weight: 1,
    run: async (scene, random) => {
      scene.tell('check and repair');
      await repairClosed(scene);
      await scene.open(random);
      await verifyOpen(scene);
    },
  },
];
