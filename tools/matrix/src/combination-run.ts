/**
 * One combination, from making the image to the last comparison. By the maker's side the image is made and filled; then each side
 * says what it sees, and both are held to the model: every byte of the disk and of each snapshot, the map, snapshots,
 * bitmaps with all that is dirty in them, the header's facts, and both checks.
 */
import { rmSync } from 'node:fs';
import { SeededRandom } from '@qcow2/seeded';
import { Qcow2Error } from '@qcow2/spec';
import { type Action, drawActions, type Fill, mergedFills } from './actions.ts';
import { type Refusal, refusalOf } from './constraints.ts';
import { type Combination, refcountBitsOf } from './dimensions.ts';
import { misplaced, ourMap, theirMap } from './disk-map.ts';
import { type DirtyRange, DiskModel, type Step } from './disk-model.ts';
import { type OpenedImage, OwnSide, readAll } from './own-side.ts';
import { type Outcome, ProgramFailed } from './programs.ts';
import { QemuSide } from './qemu-side.ts';
import { dataName, imageName, type Scene } from './scene.ts';
import { contentSeed, type Shape, shapeOf } from './workload.ts';

export interface RunResult {
  /** Differences, each a line; empty where all agree. */
  readonly findings: readonly string[];
  /** We refused, with the code that is expected of a gap. */
  readonly refused: Refusal | undefined;
}

/** A snapshot, or the disk as it is. */
interface View {
  readonly snapshot: string | undefined;
  readonly bytes: Uint8Array;
}

interface ExpectedBitmap {
  readonly name: string;
  readonly granularityBytes: number;
  readonly enabled: boolean;
  readonly dirty: readonly DirtyRange[];
}

export async function runCombination(
  scene: Scene,
  combination: Combination,
  seed: number,
): Promise<RunResult> {
  const run = new CombinationRun(scene, combination, seed);
  const expected = refusalOf(combination);
  try {
    await run.all();
  } catch (error) {
    const code = error instanceof Qcow2Error ? error.code : undefined;
    const isExpected = expected !== undefined && code === expected.code && run.stage === expected.at;
    if (isExpected && !(error instanceof ProgramFailed)) return { findings: [], refused: expected };
    const text =
      error instanceof Qcow2Error
        ? `${error.code}: ${error.message}`
        : String((error as Error)?.stack ?? error);
    return { findings: [...run.findings, `${run.stage}: ${text}`], refused: undefined };
  } finally {
    for (const name of [imageName, dataName]) rmSync(scene.path(name), { force: true });
  }
  if (expected === undefined) return { findings: run.findings, refused: undefined };
  const message = `${expected.name} was to be refused with ${expected.code}, and was not: take the row away`;
  return { findings: [message, ...run.findings], refused: undefined };
}

class CombinationRun {
  readonly findings: string[] = [];
  stage: Refusal['at'] | 'make' | 'compare' = 'make';
  readonly #scene: Scene;
  readonly #combination: Combination;
  readonly #shape: Shape;
  readonly #random: SeededRandom;
  readonly #qemu: QemuSide;
  readonly #own: OwnSide;
  readonly #model: DiskModel;
  readonly #views: View[] = [];
  readonly #bitmaps: ExpectedBitmap[] = [];
  #recording: { readonly name: string; readonly granularityBytes: number } | undefined;

  constructor(scene: Scene, combination: Combination, seed: number) {
    this.#scene = scene;
    this.#combination = combination;
    this.#shape = shapeOf(combination);
    this.#random = new SeededRandom(contentSeed(combination, seed));
    this.#qemu = new QemuSide(scene, combination);
    this.#own = new OwnSide(scene, combination);
    const { clusterBytes, sizeBytes } = this.#shape;
    const { version, backing } = combination;
    const discards = version === 'v3' || backing === 'alone';
    const below =
      backing === 'alone' ? undefined : scene.base(backing === 'onraw' ? 'raw' : 'qcow2', this.#shape).bytes;
    this.#model = new DiskModel(sizeBytes, { clusterBytes, discards, fills: scene.fills }, below);
  }

  async all(): Promise<void> {
    const actions = drawActions(this.#random, this.#combination, this.#shape);
    if (this.#combination.maker === 'theirs') this.#theyMake(actions);
    else await this.#weMake(actions);
    this.#views.push({ snapshot: undefined, bytes: this.#model.bytes });
    if (this.#recording !== undefined) {
      const { name, granularityBytes } = this.#recording;
      const dirty = this.#model.dirty(granularityBytes);
      this.#bitmaps.unshift({ name, granularityBytes, enabled: true, dirty });
    }
    this.stage = 'read';
    const opened = await this.#own.open(true);
    try {
      await this.#compareOurs(opened);
      this.stage = 'compare';
      await this.#compareTheirs(opened);
    } finally {
      await opened.image.close();
    }
  }

  /** What is to be seen afterwards of an action that fills nothing. */
  #expect(action: Exclude<Action, Fill>): void {
    const { bytes } = this.#model;
    const at = this.#views.findIndex(({ snapshot }) => snapshot === action.name);
    switch (action.kind) {
      case 'snapshot':
        this.#views.push({ snapshot: action.name, bytes: bytes.slice() });
        break;
      case 'apply':
        bytes.set(this.#views[at]!.bytes);
        break;
      case 'delete':
        this.#views.splice(at, 1);
        break;
      case 'record':
        this.#model.forget();
        this.#recording = action;
        break;
      case 'keep': {
        const { name, granularityBytes } = action;
        const dirty = this.#model.dirty(granularityBytes);
        this.#bitmaps.push({ name, granularityBytes, enabled: false, dirty });
      }
    }
  }

  #theyMake(actions: readonly Action[]): void {
    const qemu = this.#qemu;
    must('create', qemu.create());
    const { data, encryption } = this.#combination;
    // Every cluster of a raw data file is mapped from the beginning, and zeros of the file are no zeros when decrypted.
    if (data === 'rawfile' && encryption !== 'clear') this.#model.bytes.set(qemu.read());
    for (const action of mergedFills(actions)) {
      if (action.kind === 'fill') for (const step of action.steps) this.#model.apply(step);
      else this.#expect(action);
      switch (action.kind) {
        case 'fill':
          must('fill', qemu.fill(action.steps));
          break;
        case 'snapshot':
        case 'apply':
        case 'delete':
          must(action.kind, qemu.snapshot(action.kind, action.name));
          break;
        case 'record':
          must('bitmap', qemu.bitmap(['--add', '-g', String(action.granularityBytes)], action.name));
          break;
        case 'keep': {
          const words = [
            '--add',
            '-g',
            String(action.granularityBytes),
            '--disable',
            '--merge',
            action.source,
          ];
          must('bitmap', qemu.bitmap(words, action.name));
        }
      }
    }
  }

  /** In one opening or in several; with a flush here and there. */
  async #weMake(actions: readonly Action[]): Promise<void> {
    // The old encryption is not made by us: QEMU makes the image, and we fill it.
    if (this.#combination.encryption === 'aes') must('create', this.#qemu.create());
    else {
      this.stage = 'create';
      await this.#own.create();
    }
    this.stage = 'open';
    let opened = await this.#own.open(false);
    try {
      this.stage = 'write';
      if (this.#combination.maker === 'journal') await this.#own.enableJournal(opened);
      for (const action of actions) {
        await this.#weDo(opened, action);
        if (!this.#random.chance(3)) continue;
        await opened.image.close();
        opened = await this.#own.open(false);
      }
    } catch (error) {
      // As a crash would: what failed is told, and not what closing makes of it.
      await opened.abandon();
      throw error;
    }
    await opened.image.close();
  }

  async #weDo(opened: OpenedImage, action: Action): Promise<void> {
    const { image } = opened;
    if (action.kind !== 'fill') this.#expect(action);
    switch (action.kind) {
      case 'fill':
        for (const step of action.steps) {
          await this.#own.apply(opened, step);
          await this.#follow(opened, step);
          if (this.#random.chance(4)) await image.flush();
        }
        break;
      case 'snapshot':
        await image.createSnapshot({ name: action.name });
        break;
      case 'apply':
        await image.applySnapshot({ name: action.name });
        break;
      case 'delete':
        await image.deleteSnapshot({ name: action.name });
        break;
      case 'record':
        await image.addBitmap(action.name, { granularityBytes: action.granularityBytes });
        break;
      case 'keep':
        await image.addBitmap(action.name, { granularityBytes: action.granularityBytes, enabled: false });
        await image.mergeBitmap(action.name, action.source);
    }
  }

  /** What came of a request of ours. Only of version 2 it is left open what a discard shows [L2E-014]. */
  async #follow({ image }: OpenedImage, step: Step): Promise<void> {
    const { version, backing } = this.#combination;
    const isOpen = step.kind === 'discard' && version === 'v2' && backing !== 'alone';
    if (!isOpen) return this.#model.apply(step);
    const found = new Uint8Array(step.lengthBytes);
    await image.read(step.offset, found);
    const wrong = this.#model.adopt(step, found);
    if (wrong !== undefined) this.findings.push(wrong);
  }

  async #compareOurs({ image }: OpenedImage): Promise<void> {
    for (const { snapshot, bytes } of this.#views) {
      const device = snapshot === undefined ? image : await image.openSnapshot({ name: snapshot });
      this.#compare(
        `we read ${snapshot ?? 'the disk'}`,
        firstDifference(await readAll(device), bytes),
        undefined,
      );
    }
    this.#compare(
      'our snapshots',
      image.snapshots.map(({ name }) => name),
      this.#snapshotNames,
    );
    const bitmaps = await image.bitmaps();
    const ours = [];
    for (const { name, granularityBytes, enabled, inconsistent } of bitmaps) {
      const dirty = inconsistent ? 'inconsistent' : await image.dirtyRanges(name);
      ours.push({ name, granularityBytes, enabled, dirty });
    }
    this.#compare('our bitmaps', ours, this.#bitmaps);
    const { corruptions, leaks, checkErrors, findings } = await this.#own.check();
    this.#compare('our check', { corruptions, leaks, checkErrors, findings }, noErrors);
  }

  async #compareTheirs(opened: OpenedImage): Promise<void> {
    const qemu = this.#qemu;
    for (const { snapshot, bytes } of this.#views) {
      this.#compare(
        `QEMU reads ${snapshot ?? 'the disk'}`,
        firstDifference(qemu.read(snapshot), bytes),
        undefined,
      );
    }
    const isEncrypted = this.#combination.encryption !== 'clear';
    const entries = qemu.map();
    this.#compare('the map', await ourMap(opened, isEncrypted), theirMap(entries, isEncrypted));
    const file = this.#combination.data === 'inside' ? imageName : dataName;
    this.#compare('places', misplaced(entries, this.#scene.path(file), this.#model.bytes), undefined);
    this.#compareInfo(opened);
    if (this.#combination.maker === 'theirs') return;
    const checked = qemu.check();
    const { corruptions, leaks, 'check-errors': errors } = JSON.parse(checked.stdout || '{}');
    const told = { status: checked.status, corruptions, leaks, errors };
    this.#compare('qemu-img check', told, { status: 0, corruptions: undefined, leaks: undefined, errors: 0 });
    if (this.#combination.snapshots === 'snap') {
      const names = qemu
        .snapshotList()
        .split('\n')
        .slice(2)
        .filter(Boolean)
        .map((line) => line.split(/\s+/)[1]);
      this.#compare('qemu-img snapshot -l', names, this.#snapshotNames);
    }
    for (const { name, dirty } of this.#bitmaps) {
      this.#compare(`QEMU’s view of the bitmap ${name}`, await qemu.dirty(name), dirty);
    }
  }

  #compareInfo({ image }: OpenedImage): void {
    const info = this.#qemu.info();
    const { data } = info['format-specific'];
    const theirs = {
      sizeBytes: info['virtual-size'],
      clusterBytes: info['cluster-size'],
      isDirty: info['dirty-flag'],
      isCorrupt: data.corrupt ?? false,
      compat: data.compat,
      refcountBits: data['refcount-bits'],
      extendedL2: data['extended-l2'] ?? false,
      compression: data['compression-type'],
      encryption: data.encrypt?.format ?? 'none',
      dataFile: data['data-file'],
      dataFileRaw: data['data-file-raw'] ?? false,
      snapshots: (info.snapshots ?? []).map(({ id, name }) => `${id} ${name}`),
      bitmaps: (data.bitmaps ?? []).map(({ name, granularity, flags }) => `${name} ${granularity} ${flags}`),
    };
    const ours = image.info();
    const { version, refcount, entries, encryption, compression } = this.#combination;
    this.#compare(
      'what info says',
      {
        sizeBytes: ours.virtualSizeBytes,
        clusterBytes: ours.clusterBytes,
        isDirty: ours.dirtyFlag,
        isCorrupt: ours.corrupt,
        compat: ours.compat,
        refcountBits: ours.refcountBits,
        extendedL2: ours.extendedL2,
        compression: ours.compressionType,
        encryption: ours.encryption,
        dataFile: ours.dataFile,
        dataFileRaw: ours.dataFileRaw,
        snapshots: ours.snapshots.map(({ id, name }) => `${id} ${name}`),
        bitmaps: this.#bitmaps.map(
          ({ name, granularityBytes, enabled }) => `${name} ${granularityBytes} ${enabled ? 'auto' : ''}`,
        ),
      },
      theirs,
    );
    // And that the image is what was asked for.
    this.#compare('the combination', theirs, {
      ...theirs,
      sizeBytes: this.#shape.sizeBytes,
      clusterBytes: this.#shape.clusterBytes,
      compat: version === 'v2' ? '0.10' : '1.1',
      refcountBits: refcountBitsOf({ refcount }),
      extendedL2: entries === 'extended',
      encryption: encryption === 'clear' ? 'none' : encryption,
      compression: compression === 'zstd' ? 'zstd' : 'zlib',
    });
  }

  get #snapshotNames(): string[] {
    return this.#views.flatMap(({ snapshot }) => (snapshot === undefined ? [] : [snapshot]));
  }

  #compare(what: string, actual: unknown, expected: unknown): void {
    const [found, wanted] = [JSON.stringify(actual) ?? 'agreed', JSON.stringify(expected) ?? 'agreed'];
    if (found !== wanted) this.findings.push(`${what}: ${aroundDifference(found, wanted)}`);
  }
}

const noErrors = { corruptions: 0, leaks: 0, checkErrors: 0, findings: [] };

/** qemu-io tells of a failed request, and goes on. */
function must(what: string, outcome: Outcome): void {
  if (outcome.status !== 0 || /failed/.test(outcome.stdout + outcome.stderr)) {
    throw new ProgramFailed(what, [], outcome);
  }
}

function firstDifference(actual: Uint8Array, expected: Uint8Array): string | undefined {
  if (actual.length !== expected.length) return `${actual.length} bytes, not ${expected.length}`;
  if (Buffer.compare(actual, expected) === 0) return undefined;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  return `byte ${at} is ${actual[at]}, not ${expected[at]}`;
}

/** Two texts from a little before they part. */
function aroundDifference(found: string, wanted: string): string {
  let at = 0;
  while (at < found.length && found[at] === wanted[at]) at++;
  const from = Math.max(0, at - 120);
  return `…${found.slice(from, from + 360)}…, not …${wanted.slice(from, from + 360)}…`;
}
