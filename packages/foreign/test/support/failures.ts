import { Qcow2Error } from '@qcow2/spec';

/** What an action fails with. @throws where it does not, or with something that has no code */
export async function failureOf(action: () => unknown): Promise<Qcow2Error> {
  try {
    await action();
  } catch (error) {
    if (error instanceof Qcow2Error) return error;
    throw error;
  }
  throw new RangeError('nothing failed');
}
