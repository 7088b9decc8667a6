/**
 * Recover one crash state and look at what comes out: what the guest sees, whether the structure is whole
 * (G3), whether it stays so after a clean close, whether a second recovery of the same state gives the
 * same bytes (G4), and whether a read-only open sees the same and writes nothing (G9).
 *
 * What a recovery does is a function of the image alone: `random` is seeded with the image's hash, so each
 * life has salts of its own, and the same state is always recovered in the same way.
 */
import { type BlockDevice, type RecordedOperation, RecordingDevice } from '@qcow2/block-device';
import { SeededRandom } from '@qcow2/seeded';
import { InvariantError } from '@qcow2/spec';
import { encodeBacking, encodeBitmapList, encodeSnapshotList } from './attached-lists.ts';
import { SectorDevice } from './sector-device.ts';
import { SectorImage } from './sector-image.ts';
import type { OpenSnapshots, OpenSystem, SystemUnderTest } from './system-under-test.ts';
import { mostGrownClusters } from './workload.ts';

/**
 * The guarantees of the journal's design that the lab can see broken, and what bitmaps and repairs promise; `run` where a
 * workload failed by itself.
 */
export type Guarantee = 'G1/G2' | 'G3' | 'G4' | 'G6' | 'G9' | 'bitmaps' | 'repair' | 'open' | 'run';

export interface Problem {
  readonly guarantee: Guarantee;
  readonly message: string;
}

export interface RecoveryDepth {
  /** Open once more after the clean close: same content. */
  readonly reopen: boolean;
  /** Recover a copy of the state too: same bytes. */
  readonly twice: boolean;
  /** Open a copy read-only: same content, nothing written. */
  readonly readOnly: boolean;
}

export const shallowDepth: RecoveryDepth = { reopen: false, twice: false, readOnly: false };
export const fullDepth: RecoveryDepth = { reopen: true, twice: true, readOnly: true };

export interface Recovery {
  /** What the guest sees after recovery; undefined where it could not be opened or read. */
  readonly content: Uint8Array | undefined;
  readonly problems: readonly Problem[];
  /** The device operations of recovery, reading and close, to crash in. */
  readonly log: readonly RecordedOperation[];
  /** The image after the clean close; undefined where it did not come to that. */
  readonly closed: SectorImage | undefined;
  readonly leaks: number;
  /** What was dangerous before (`Repair`). */
  readonly dangers: readonly string[];
}

export async function recover(
  system: SystemUnderTest,
  image: SectorImage,
  depth: RecoveryDepth,
): Promise<Recovery> {
  const problems: Problem[] = [];
  const findings = (await system.checkCrashed?.(new SectorDevice(image.clone()))) ?? [];
  if (findings.length > 0) {
    const found = `${findings.length} errors before recovery`;
    problems.push({ guarantee: 'G3', message: [found, ...findings.slice(0, 8)].join('\n  ') });
  }
  const dangers = (await system.repair?.dangers(new SectorDevice(image.clone()))) ?? [];
  const first = await openReadClose(system, image);
  const { content, closed } = first;
  let leaks = 0;
  if (content === undefined || closed === undefined) {
    problems.push({ guarantee: 'open', message: first.failure ?? 'no content' });
  } else {
    leaks = await checkIntegrity(system, closed, 'after recovery and a clean close', problems);
    if (depth.reopen) await checkReopened(system, closed, content, problems);
    if (depth.twice) await checkSecondRecovery(system, image, closed, problems);
  }
  // A reader does not repair what it reads.
  if (depth.readOnly && system.repair === undefined) await checkReadOnly(system, image, content, problems);
  return { content, problems, log: first.log, closed, leaks, dangers };
}

interface Passage {
  readonly content: Uint8Array | undefined;
  readonly closed: SectorImage | undefined;
  readonly log: readonly RecordedOperation[];
  readonly failure: string | undefined;
}

/** Open for writing, read all, close. Failures are part of the answer. */
async function openReadClose(system: SystemUnderTest, image: SectorImage): Promise<Passage> {
  const disk = new SectorDevice(image.clone());
  const device = new RecordingDevice(disk);
  let content: Uint8Array | undefined;
  let opened: OpenSystem | undefined;
  try {
    opened = await openSystem(system, device, image, false);
    content = await readAll(opened, system);
    await opened.settle();
    await opened.close();
    return { content, closed: disk.image, log: device.log, failure: undefined };
  } catch (error) {
    opened?.abandon();
    const what = opened === undefined ? 'open' : content === undefined ? 'read' : 'close';
    return { content, closed: undefined, log: device.log, failure: `${what}: ${describeError(error)}` };
  }
}

function openSystem(
  system: SystemUnderTest,
  device: BlockDevice,
  image: SectorImage,
  readOnly: boolean,
): OpenSystem | Promise<OpenSystem> {
  const { low, high } = image.hash();
  const random = new SeededRandom(low, high);
  return system.open(device, { random: (into) => random.fill(into), readOnly });
}

/** The guest's disk, and behind it its snapshots, what it stands on and its bitmaps, where the system has any. */
async function readAll(open: OpenSystem, system: SystemUnderTest): Promise<Uint8Array> {
  const { guest, snapshots, backing, bitmaps } = open;
  const mostBytes = system.guestBytes + mostGrownClusters * system.clusterBytes;
  if (guest.sizeBytes > mostBytes) {
    throw new InvariantError('the disk is larger than it can have been made', { value: guest.sizeBytes });
  }
  const content = new Uint8Array(guest.sizeBytes);
  const done = guest.read(0, content);
  if (done !== undefined) await done;
  const lists = [
    ...(snapshots === undefined ? [] : [encodeSnapshotList(await wholeSnapshots(snapshots))]),
    ...(backing === undefined ? [] : [encodeBacking(backing.named())]),
    ...(bitmaps === undefined ? [] : [encodeBitmapList(await bitmaps.list())]),
  ];
  return lists.length === 0 ? content : joined([content, ...lists]);
}

/** Names of the snapshots; one that does not hold what it held is not called by its name. */
async function wholeSnapshots(snapshots: OpenSnapshots): Promise<readonly string[]> {
  const names: string[] = [];
  for (const name of snapshots.names()) {
    const isWhole = snapshotName(name, await snapshots.read(name)) === name;
    names.push(isWhole ? name : `${name}, but not its content`);
  }
  return names;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A snapshot is named after what it holds: so that whoever finds it can tell whether it holds that still. */
export function snapshotName(prefix: string, content: Uint8Array): string {
  return `${prefix.split('-')[0]}-${SectorImage.fromBytes(content).key()}`;
}

async function checkIntegrity(
  system: SystemUnderTest,
  image: SectorImage,
  when: string,
  problems: Problem[],
): Promise<number> {
  if (system.check === undefined) return 0;
  const device = new SectorDevice(image.clone());
  try {
    const report = await system.check(device);
    const bad = report.errors > 0 || (system.leaksAreFailures && report.leaks > 0);
    if (bad) {
      const found = `${report.errors} errors, ${report.leaks} leaks ${when}`;
      problems.push({ guarantee: 'G3', message: [found, ...report.findings].join('\n  ') });
    }
    return report.leaks;
  } catch (error) {
    problems.push({ guarantee: 'G3', message: `the check failed ${when}: ${describeError(error)}` });
    return 0;
  }
}

async function checkReopened(
  system: SystemUnderTest,
  closed: SectorImage,
  content: Uint8Array,
  problems: Problem[],
): Promise<void> {
  const again = await openReadClose(system, closed);
  const difference = describeDifference(content, again.content);
  if (again.failure !== undefined) {
    problems.push({ guarantee: 'G4', message: `after a clean close, ${again.failure}` });
  } else if (difference !== undefined) {
    problems.push({
      guarantee: 'G4',
      message: `a clean close and reopen changed the content: ${difference}`,
    });
  }
}

async function checkSecondRecovery(
  system: SystemUnderTest,
  image: SectorImage,
  closed: SectorImage,
  problems: Problem[],
): Promise<void> {
  const again = await openReadClose(system, image);
  const sector = again.closed?.firstDifference(closed);
  if (again.closed === undefined || sector !== undefined) {
    const where = sector === undefined ? again.failure : `first at sector ${sector}`;
    problems.push({ guarantee: 'G4', message: `recovered twice, the images differ: ${where}` });
  }
}

async function checkReadOnly(
  system: SystemUnderTest,
  image: SectorImage,
  content: Uint8Array | undefined,
  problems: Problem[],
): Promise<void> {
  const device = new SectorDevice(image.clone());
  try {
    const opened = await openSystem(system, device, image, true);
    const seen = await readAll(opened, system);
    await opened.close();
    const difference = describeDifference(content, seen);
    if (difference !== undefined) {
      problems.push({ guarantee: 'G9', message: `a read-only open sees something else: ${difference}` });
    }
  } catch (error) {
    problems.push({ guarantee: 'G9', message: `read-only open: ${describeError(error)}` });
  }
  if (device.changes > 0) problems.push({ guarantee: 'G9', message: 'a read-only open wrote to the device' });
}

/** The first byte at which two contents differ, in words; undefined where they do not. */
export function describeDifference(
  left: Uint8Array | undefined,
  right: Uint8Array | undefined,
): string | undefined {
  if (left === undefined || right === undefined) return left === right ? undefined : 'one can not be read';
  if (left.length !== right.length) return `the disk's size of ${left.length} became ${right.length}`;
  if (Buffer.compare(left, right) === 0) return undefined;
  for (let at = 0; at < left.length; at++) {
    if (left[at] !== right[at]) {
      return `first at guest offset ${at}: ${showBytes(left, at)} became ${showBytes(right, at)}`;
    }
  }
  return undefined;
}

/** The head of a sector for people: as text where it is text. */
export function showBytes(bytes: Uint8Array, at = 0): string {
  const head = bytes.subarray(at, at + 24);
  if (head.every((byte) => byte === 0)) return 'zeros';
  const text = String.fromCharCode(...head);
  const stamp = /^<[^>]*>/.exec(text);
  return (
    stamp?.[0] ?? Array.from(head.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join(' ')
  );
}

export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? `${error.code} ` : '';
  const place =
    error.stack
      ?.split('\n')
      .slice(1, 4)
      .map((line) => line.trim())
      .join(' ') ?? '';
  return `${code}${error.message} ${place}`;
}
