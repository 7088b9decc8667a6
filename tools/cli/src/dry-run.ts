/**
 * `--dry-run`: what a command would do, found by doing it to a copy that is not there. Files that it would write to are opened for reading, and
 * what is written to them stays in memory, and is read again from there ([ADR 30](../../../docs/adr/0030-dry-runs-over-overlays.md)).
 *
 * Invariants: a file is opened for reading only, so no byte, length or time of it changes, whatever the code above does; guest bytes that are
 * copied are counted and not written, so memory grows with changes of metadata only, and no further than `mostBytes`.
 */
import { type BlockDevice, OverlayDevice } from '@qcow2/block-device';
import { Qcow2Error } from '@qcow2/spec';
import type { OptionSpec } from './arguments.ts';
import type { CopyPiece } from './copy/copy-plan.ts';
import { CommandFailure } from './failures.ts';

export const dryRunOption: OptionSpec = {
  name: 'dry-run',
  help: 'say what would be done, and write nothing; needs no permission to write',
};

const mostBytes = 256 * 1024 * 1024;

/** The last line of every report. */
export const nothingWritten = 'Nothing was written.\n';

/** What stands in front of a file in a dry run. Closing it closes the file. */
export function keptInMemory(device: BlockDevice): OverlayDevice {
  return new OverlayDevice(device, { maxChangedBytes: mostBytes });
}

/** @throws CommandFailure where the changes would take too much memory, in place of whatever that came to above */
export async function dryRun<T>(isDry: boolean, action: () => Promise<T>): Promise<T> {
  if (!isDry) return await action();
  try {
    return await action();
  } catch (error) {
    if (!isOverflow(error)) throw error;
    const message = `given up: a dry run holds changes of ${mostBytes / 2 ** 20} MiB, and there are more`;
    throw new CommandFailure(message, { cause: error });
  }
}

function isOverflow(error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause) {
    if (each instanceof Qcow2Error && each.context.field === 'maxChangedBytes') return true;
  }
  return false;
}

/** What a copy writes. */
export class CopyFigures {
  dataBytes = 0;
  zeroBytes = 0;

  add({ kind, lengthBytes }: Pick<CopyPiece, 'kind' | 'lengthBytes'>): void {
    if (kind === 'data') this.dataBytes += lengthBytes;
    else if (kind === 'zero') this.zeroBytes += lengthBytes;
  }

  /** @param clusterBytes of the image that is written to; undefined for a raw file */
  text(clusterBytes: number | undefined): string {
    const clusters = clusterBytes === undefined ? 0 : Math.ceil(this.dataBytes / clusterBytes);
    const inClusters = clusters === 0 ? '' : ` (${clusters} cluster${clusters === 1 ? '' : 's'})`;
    return `    data written: ${this.dataBytes} bytes${inClusters}\n    zeros written: ${this.zeroBytes} bytes\n`;
  }
}
