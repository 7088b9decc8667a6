/** One row of a parity table: the same arguments through the real qemu-img and through ours, called qemu-img. */
import { type Outcome, qcow2, run } from './command.ts';

export interface ParityCase {
  readonly args: readonly string[];
  /** Standard error only has to be empty on both sides or on none. */
  readonly ignoreStderr?: boolean;
  /** The outputs differ on purpose: an id of docs/deviations.md. */
  readonly deviation?: string;
}

export interface RunnableCase {
  readonly title: string;
  runBoth(ourFolder: string, theirFolder: string): { readonly ours: Outcome; readonly theirs: Outcome };
}

export function parityCase(each: ParityCase): RunnableCase {
  const words = each.args.map((word) => (/^[\w./:=,%+-]+$/.test(word) ? word : JSON.stringify(word)));
  const suffix = each.deviation === undefined ? '' : ` differs: ${each.deviation}`;
  return {
    title: `qemu-img ${words.join(' ')}${suffix}`,
    runBoth: (ourFolder, theirFolder) => ({
      ours: normalised(qcow2(each.args, { cwd: ourFolder, programName: 'qemu-img' }), each),
      theirs: normalised(run('qemu-img', each.args, { cwd: theirFolder }), each),
    }),
  };
}

/** qemu-img leaves some messages without a line break at their end. */
function normalised(outcome: Outcome, each: ParityCase): Outcome {
  const stderr = outcome.stderr.trimEnd();
  return { ...outcome, stderr: each.ignoreStderr === true && stderr !== '' ? '(something)' : stderr };
}
