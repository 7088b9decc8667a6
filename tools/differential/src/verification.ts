/** Everything that can be seen of an image, beside the model: by us while it is open, by both when it is closed. */
import { readFileSync, rmSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import type { CheckReport } from '@qcow2/driver';
import type { SeededRandom } from '@qcow2/seeded';
import { Disagreement } from './disagreement.ts';
import type { BitmapModel, SnapshotModel } from './disk-model.ts';
import { files } from './files.ts';
import type { Scene } from './scene.ts';

export function expectBytes(seen: Uint8Array, wanted: Uint8Array, who: string, offset = 0): void {
  if (Buffer.compare(seen, wanted) === 0) return;
  if (seen.length !== wanted.length) {
    throw new Disagreement(`${who}: ${seen.length} bytes, not ${wanted.length}`);
  }
  const at = seen.findIndex((byte, index) => byte !== wanted[index]);
  const differing = seen.reduce((sum, byte, index) => sum + (byte === wanted[index] ? 0 : 1), 0);
  throw new Disagreement(
    `${who}: byte ${offset + at} is ${seen[at]}, not ${wanted[at]}; ${differing} bytes differ`,
  );
}

/** The open image: size, bytes, snapshots, bitmaps. */
export async function verifyOpen(scene: Scene): Promise<void> {
  const { model, subject } = scene;
  const { image } = subject;
  expectBytes(await contentOf(image), model.bytes, 'we show the disk');
  const names = image.snapshots.map(({ name }) => name).join();
  const wanted = model.snapshots.map(({ name }) => name).join();
  if (names !== wanted) throw new Disagreement(`snapshots: ${names}; not ${wanted}`);
  for (const { name, content } of model.snapshots) {
    const shown = await image.openSnapshot({ name });
    expectBytes(await contentOf(shown), content, `we show snapshot ${name}`);
    await shown.close();
  }
  const bitmaps = (await image.bitmaps()).map(({ name }) => name).join();
  const wantedBitmaps = model.bitmaps.map(({ name }) => name).join();
  if (bitmaps !== wantedBitmaps) throw new Disagreement(`bitmaps: ${bitmaps}; not ${wantedBitmaps}`);
  for (const bitmap of model.bitmaps) {
    const ranges = await image.dirtyRanges(bitmap.name);
    expectBits(
      bitmap,
      ranges.map(({ offset, lengthBytes }) => ({ start: offset, end: offset + lengthBytes })),
      'we say',
    );
  }
}

/** The closed image: by the checks of both, and as QEMU shows it. */
export async function verifyClosed(scene: Scene, random: SeededRandom): Promise<void> {
  const { kind, model, qemu, subject } = scene;
  await expectClean(scene);
  const different = qemu.compare(model.bytes);
  if (different !== undefined) throw new Disagreement(`QEMU shows another disk: ${different}`);
  if (kind.data === 'raw') {
    // QEMU makes it as long as whole clusters.
    expectBytes(
      readFileSync(subject.path('data')).subarray(0, model.sizeBytes),
      model.bytes,
      'the raw data file',
    );
  }
  if (model.snapshots.length > 0 && random.chance(2))
    expectTheirSnapshot(scene, random.pick(model.snapshots));
}

/** At the end: what is too much for every turn. */
export function verifyTheirs(scene: Scene): void {
  for (const snapshot of scene.model.snapshots) expectTheirSnapshot(scene, snapshot);
  for (const bitmap of scene.model.bitmaps) {
    expectBits(bitmap, scene.qemu.dirtyRanges(bitmap.name), 'QEMU says');
  }
}

/** Neither of the two checks finds an error or a leak. */
export async function expectClean(scene: Scene): Promise<CheckReport> {
  const ours = await scene.subject.check();
  if (ours.findings.length > 0) {
    throw new Disagreement(`our check: ${ours.findings.map(({ message }) => message).join('; ')}`);
  }
  const outcome = scene.qemu.image('check', ['--output=json']);
  const report: Partial<Record<string, number>> = outcome.stdout === '' ? {} : JSON.parse(outcome.stdout);
  // QEMU does not know what the clusters of the draft's journal are for.
  const leaks = isDraft(scene) ? (ours.journal?.lengthBytes ?? 0) / scene.kind.clusterBytes : 0;
  const good =
    outcome.status === (leaks > 0 ? 3 : 0) &&
    (report.corruptions ?? 0) === 0 &&
    (report['check-errors'] ?? 0) === 0 &&
    (report.leaks ?? 0) === leaks;
  if (!good) {
    throw new Disagreement(
      `qemu-img check: exit status ${outcome.status}, ${outcome.stdout}${outcome.stderr}`,
    );
  }
  return ours;
}

/** Whether the image has a journal of the draft: as it was when it was last open. */
function isDraft(scene: Scene): boolean {
  return scene.lastProfile === 'draft-2013';
}

/** qemu-img shows a snapshot in the size that the disk has now. */
function expectTheirSnapshot({ qemu, subject, model }: Scene, { name, content }: SnapshotModel): void {
  rmSync(subject.path('shown'), { force: true });
  qemu.mustImage('convert', ['-O', 'raw', '-l', `snapshot.name=${name}`], [files.shown]);
  const shown = readFileSync(subject.path('shown'));
  const common = Math.min(content.length, model.sizeBytes);
  if (shown.length !== model.sizeBytes) throw new Disagreement(`QEMU shows ${shown.length} bytes of ${name}`);
  expectBytes(shown.subarray(0, common), content.subarray(0, common), `QEMU shows snapshot ${name}`);
}

function expectBits(
  bitmap: BitmapModel,
  ranges: readonly { readonly start: number; readonly end: number }[],
  who: string,
): void {
  const said = new Uint8Array(bitmap.least.length);
  for (const { start, end } of ranges) said.fill(1, Math.floor(start / 512), Math.ceil(end / 512));
  for (let sector = 0; sector < said.length; sector++) {
    const lost = said[sector] === 0 && bitmap.least[sector] === 1;
    if (!lost && !(said[sector] === 1 && bitmap.most[sector] === 0)) continue;
    const what = lost ? 'is not dirty, and has changed' : 'is dirty, and nobody has asked for a change';
    throw new Disagreement(`${who} of bitmap ${bitmap.name}: ${sector * 512} ${what}`);
  }
}

async function contentOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}
