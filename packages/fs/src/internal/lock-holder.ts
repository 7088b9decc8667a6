/**
 * Who holds a lock on a byte of a file: Linux tells it of every open file of the processes that we may look at
 * (`/proc/PID/fdinfo`). A lock of an open file description has no process in `/proc/locks`, so each is asked.
 *
 * Asked only when an opening fails, for a word in its message: whatever can not be read is passed over, and the
 * search is bounded.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';

export interface LockHolder {
  readonly processId: number;
  /** What the process calls itself: not to be believed, and without characters that a terminal would obey. */
  readonly name: string;
}

/** A file, as `stat` names it. */
export interface FileIdentity {
  readonly device: number;
  readonly inode: number;
}

/** So many open files are looked at. */
const searchLimit = 20_000;
const nameLimit = 64;

/**
 * @param file with `fd`, the open file of this process that asks: it may hold a lock on the same byte, and is not who
 *   stands in its own way
 * @returns undefined where nobody is found, which does not mean that nobody is there
 */
export function findHolder(
  file: FileIdentity & { readonly fd?: number },
  byte: number,
  proc = '/proc',
): LockHolder | undefined {
  let looked = 0;
  for (const processId of numbersIn(proc)) {
    for (const fd of numbersIn(`${proc}/${processId}/fdinfo`)) {
      if (looked++ >= searchLimit) return undefined;
      if (processId === process.pid && fd === file.fd) continue;
      const info = textOf(`${proc}/${processId}/fdinfo/${fd}`);
      if (!holdsByte(info, file.inode, byte)) continue;
      // File systems number inodes each for itself.
      if (!isFile(`${proc}/${processId}/fd/${fd}`, file)) continue;
      const name = textOf(`${proc}/${processId}/comm`).trim().slice(0, nameLimit);
      return { processId, name: name.replace(/[^\x20-\x7e]/g, '?') };
    }
  }
  return undefined;
}

/** @returns a sentence; nothing of nobody */
export function describeHolder(holder: LockHolder | undefined): string {
  if (holder === undefined) return '';
  if (holder.processId === process.pid) return 'It is in use by this process itself.';
  return `It is in use by ${holder.name === '' ? 'a program' : holder.name}, process ${holder.processId}.`;
}

/** A line for each lock: `lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101`, the last number perhaps EOF. */
function holdsByte(info: string, inode: number, byte: number): boolean {
  for (const [, at, from, to] of info.matchAll(/^lock:\s.* [\da-f]+:[\da-f]+:(\d+) (\d+) (\d+|EOF)$/gm)) {
    const end = to === 'EOF' ? Number.POSITIVE_INFINITY : Number(to);
    if (Number(at) === inode && Number(from) <= byte && byte <= end) return true;
  }
  return false;
}

function isFile(path: string, { device, inode }: FileIdentity): boolean {
  try {
    const { dev, ino } = statSync(path);
    return dev === device && ino === inode;
  } catch {
    return false;
  }
}

function numbersIn(folder: string): number[] {
  try {
    return readdirSync(folder)
      .filter((name) => /^\d+$/.test(name))
      .map(Number);
  } catch {
    return [];
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
