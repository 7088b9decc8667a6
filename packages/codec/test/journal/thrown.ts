import { Qcow2Error } from '@qcow2/spec';

/** Code and clause of the error that `run` throws; `undefined` where it throws none. */
export function thrown(run: () => unknown): { code: string; clause: string | undefined } | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof Qcow2Error) return { code: error.code, clause: error.context.clause };
    throw error;
  }
  return undefined;
}
