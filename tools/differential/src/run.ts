/**
 * One run: a kind of image, a seed, so many operations, and what came of it. Each operation draws from a generator of its own, so any of
 * them can be left out and the others stay what they are, as far as the disk lets them.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hashText, SeededRandom } from '@qcow2/seeded';
import { Qcow2Error } from '@qcow2/spec';
import { Disagreement } from './disagreement.ts';
import { DiskModel } from './disk-model.ts';
import { guestOperations } from './guest-operations.ts';
import { imageOperations } from './image-operations.ts';
import type { Kind } from './kinds.ts';
import { Qemu } from './qemu.ts';
import { qemuOperations } from './qemu-operations.ts';
import { emptyTally, type Operation, Scene, type Tally } from './scene.ts';
import { Subject } from './subject.ts';
import { verifyClosed, verifyOpen, verifyTheirs } from './verification.ts';

export interface RunOptions {
  readonly kind: Kind;
  readonly seed: number;
  readonly operations: number;
  /** Only these of them. */
  readonly only?: ReadonlySet<number> | undefined;
  /** After a failure the folder of the run stays, and its name is in the message. */
  readonly keep?: boolean;
  /** Called before each, and with the number behind the last one before the end is looked at. */
  readonly onOperation?: (number: number) => void;
  /** Called after each with what it was. */
  readonly onTold?: (number: number, told: string) => void;
}

export interface Failure {
  readonly kind: string;
  readonly seed: number;
  /** As many operations as it takes. */
  readonly operations: number;
  readonly told: string;
  readonly message: string;
}

export interface RunResult {
  readonly tally: Tally;
  readonly failure: Failure | undefined;
}

const operations: readonly Operation[] = [...guestOperations, ...imageOperations, ...qemuOperations];

export async function run(options: RunOptions): Promise<RunResult> {
  const folder = mkdtempSync(join(tmpdir(), 'qcow2-differential-'));
  const subject = new Subject(options.kind, folder);
  const qemu = new Qemu(folder, options.kind.encryption !== 'none');
  let number = 0;
  let scene: Scene | undefined;
  let kept = false;
  try {
    scene = await begin(options, subject, qemu);
    for (; number < options.operations; number++) {
      options.onOperation?.(number);
      if (options.only?.has(number) === false) continue;
      await operate(scene, new SeededRandom(options.seed, hashText(options.kind.name), number));
      options.onTold?.(number, scene.told);
    }
    options.onOperation?.(number);
    await end(scene, options);
    return { tally: sum(scene, qemu), failure: undefined };
  } catch (error) {
    subject.abandon();
    kept = options.keep === true;
    const failure = {
      kind: options.kind.name,
      seed: options.seed,
      operations: Math.min(options.operations, number + 1),
      told: scene?.told ?? 'making the image',
      message: `${describe(error)}${kept ? `\n  its files: ${folder}` : ''}`,
    };
    return { tally: sum(scene, qemu), failure };
  } finally {
    if (!kept) rmSync(folder, { recursive: true, force: true });
  }
}

async function begin({ kind, seed }: RunOptions, subject: Subject, qemu: Qemu): Promise<Scene> {
  const random = new SeededRandom(seed, hashText(kind.name));
  const disk = await subject.make(random, qemu);
  const scene = new Scene(kind, subject, qemu, new DiskModel(disk));
  await scene.open(random);
  await verifyOpen(scene);
  return scene;
}

async function operate(scene: Scene, random: SeededRandom): Promise<void> {
  const { name, run: act } = random.weighted(operations.filter(({ may }) => may?.(scene) ?? true));
  scene.tell(name);
  await act(scene, random);
  scene.tally.operations[name] = (scene.tally.operations[name] ?? 0) + 1;
}

async function end(scene: Scene, { seed, operations: count }: RunOptions): Promise<void> {
  scene.tell('the end');
  await verifyOpen(scene);
  await scene.close();
  await verifyClosed(scene, new SeededRandom(seed, count));
  verifyTheirs(scene);
}

function sum(scene: Scene | undefined, qemu: Qemu): Tally {
  return { ...(scene?.tally ?? emptyTally()), qemuStarts: qemu.starts };
}

/** An error of ours with everything that it knows. */
function describe(error: unknown): string {
  if (error instanceof Disagreement) return error.message;
  if (error instanceof Qcow2Error) {
    const cause = error.cause === undefined ? '' : `\n  because of ${describe(error.cause)}`;
    return `${error.code}: ${error.message} ${JSON.stringify(error.context)}\n  ${error.stack ?? ''}${cause}`;
  }
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
