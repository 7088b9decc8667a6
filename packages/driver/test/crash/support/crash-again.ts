/** Recovery of a crashed image crashes somewhere on its way: what that leaves, and how it is named in a failure. */
import { type MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { InvariantError } from '@qcow2/spec';
import { type OpenOptions, openImage } from '../../../src/index.ts';
import type { Random } from '../../support/random.ts';
import { CrashStates, keepings } from './crash-states.ts';

/** One state that a crash during the recovery of `crashed`, which stays as it is, may leave. */
export async function crashAgain(
  crashed: MemoryDevice,
  rng: Random,
  options: OpenOptions = {},
): Promise<MemoryDevice> {
  const recording = new RecordingDevice(crashed.clone());
  (await openImage(recording, options)).abandon();
  const states = new CrashStates(crashed, recording.log);
  states.advance(rng.below(recording.now + 1));
  return states.draw(rng, rng.pick(keepings));
}

/** For `catch`: what was wrong, and behind it at which crash. */
export function atCrash(when: string): (cause: unknown) => never {
  return (cause) => {
    throw new InvariantError(`crash at ${when}`, {}, cause);
  };
}
