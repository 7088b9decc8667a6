import { runProgram } from '../../src/program.ts';

export interface RunHere {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

/** The command in this process: no other program, and no build, is needed. */
export async function runHere(
  words: readonly string[],
  terminal?: { readonly columns: number; readonly colour: boolean },
): Promise<RunHere> {
  const out: string[] = [];
  const err: string[] = [];
  const context = {
    programName: 'qcow2',
    terminal,
    out: (text: string) => void out.push(text),
    err: (text: string) => void err.push(text),
    stop: new AbortController().signal,
  };
  const status = await runProgram(words, context, '0');
  return { status, out: out.join(''), err: err.join('') };
}
