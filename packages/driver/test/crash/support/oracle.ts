/** What must hold of an image that a crash left behind: read-only, recovered, and recovered after crashes of recovery. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { checkImage, openImage } from '../../../src/index.ts';
import type { Random } from '../../support/random.ts';
import { CrashStates, keepings } from './crash-states.ts';
import { snapshotView } from './shared-tables.ts';
import { openOptions, type Setup, type Trace } from './workload.ts';

/** Throws an error that says what does not hold. */
export async function judge(
  setup: Setup,
  trace: Trace,
  time: number,
  crashed: MemoryDevice,
  rng: Random,
): Promise<void> {
  const before = crashed.snapshot();
  const readOnly = await readImage(setup, crashed, true);
  expectNone(trace.history.crashMismatch(time, readOnly), 'read-only');
  if (Buffer.compare(before, crashed.snapshot()) !== 0) throw new Error('a read-only open has written');
  const recording = new RecordingDevice(crashed.clone());
  const recovered = await recover(setup, recording);
  expectNone(trace.history.crashMismatch(time, recovered.bytes), 'recovered');
  if (Buffer.compare(readOnly, recovered.bytes) !== 0)
    throw new Error('a reader and recovery see different disks');
  await expectWhole(setup, trace, recovered.image);
  // Recovery itself crashes, once, somewhere: it comes to the same disk.
  const states = new CrashStates(crashed, recording.log);
  states.advance(rng.below(recording.now + 1));
  const again = states.draw(rng, rng.pick(keepings));
  const second = await recover(setup, new RecordingDevice(again));
  if (Buffer.compare(second.bytes, recovered.bytes) !== 0) throw new Error('recovery does not converge');
  await expectWhole(setup, trace, second.image);
}

async function readImage(setup: Setup, device: MemoryDevice, readOnly: boolean): Promise<Uint8Array> {
  const image = await openImage(device.clone(), { ...openOptions(setup), readOnly });
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  image.abandon();
  return bytes;
}

async function recover(
  setup: Setup,
  device: RecordingDevice,
): Promise<{ bytes: Uint8Array; image: MemoryDevice }> {
  const image = await openImage(device, openOptions(setup));
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  image.abandon();
  const copy = new Uint8Array(device.sizeBytes);
  await device.read(0, copy);
  return { bytes, image: MemoryDevice.fromBytes(copy) };
}

async function expectWhole(setup: Setup, trace: Trace, image: MemoryDevice): Promise<void> {
  const report = await checkImage(image.clone());
  const leaksCount = mayLeak(setup) ? 0 : report.leaks;
  if (report.corruptions + report.checkErrors + leaksCount > 0) {
    const findings = report.findings.slice(0, 4).map(({ message }) => message);
    throw new Error(`check: ${report.corruptions} errors, ${report.leaks} leaks: ${findings.join('; ')}`);
  }
  if (!setup.shared) return;
  const shown = await readImage(setup, snapshotView(image), true);
  if (Buffer.compare(shown.subarray(0, trace.initial.length), trace.initial) !== 0)
    throw new Error('the snapshot has changed');
}

/** Without a journal, or where it comes and goes, a crash may leave refcounts that are too high. */
function mayLeak(setup: Setup): boolean {
  return setup.journal === false || setup.switches === true;
}

function expectNone(message: string | undefined, when: string): void {
  if (message !== undefined) throw new Error(`${when}: ${message}`);
}
