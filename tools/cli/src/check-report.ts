/** The result of a check in qemu-img's words and members, and the exit code that says the same. */
import { nothingWritten } from './dry-run.ts';
import type { JsonValue } from './json-text.ts';

/** What the report is made of: a CheckReport of the driver has all of it. */
export interface CheckFigures {
  readonly corruptions: number;
  readonly leaks: number;
  readonly checkErrors: number;
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly fragmentedClusters: number;
  readonly compressedClusters: number;
  readonly imageEndOffset: number;
}

/** What a repair has put right. A RepairReport of the driver has it. */
export interface FixedFigures {
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
}

/** qemu-img's exit codes of `check`, beside 0. */
export const checkExitCodes = { failed: 1, corrupt: 2, leaks: 3, unsupported: 63 } as const;

export function checkExitCode(figures: CheckFigures): number {
  if (figures.checkErrors > 0) return checkExitCodes.failed;
  if (figures.corruptions > 0) return checkExitCodes.corrupt;
  return figures.leaks > 0 ? checkExitCodes.leaks : 0;
}

/** Members in qemu-img's order; zero figures are left out where it leaves them out. */
export function checkJson(
  path: string,
  figures: CheckFigures,
  fixed: FixedFigures = { corruptionsFixed: 0, leaksFixed: 0 },
): { [key: string]: JsonValue | undefined } {
  return {
    'image-end-offset': unlessZero(figures.imageEndOffset),
    'compressed-clusters': unlessZero(figures.compressedClusters),
    'total-clusters': unlessZero(figures.totalClusters),
    corruptions: unlessZero(figures.corruptions),
    'corruptions-fixed': unlessZero(fixed.corruptionsFixed),
    'check-errors': figures.checkErrors,
    leaks: unlessZero(figures.leaks),
    'leaks-fixed': unlessZero(fixed.leaksFixed),
    'allocated-clusters': unlessZero(figures.allocatedClusters),
    filename: path,
    format: 'qcow2',
    'fragmented-clusters': unlessZero(figures.fragmentedClusters),
  };
}

/** What stands before the result of the check after a repair. */
export function repairText({ corruptionsFixed, leaksFixed }: FixedFigures): string {
  return (
    'The following inconsistencies were found and repaired:\n\n' +
    `    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n\n` +
    'Double checking the fixed image now...\n'
  );
}

/** How long the file is, and would be. */
interface FileLengths {
  readonly fileBytes: number;
  readonly fileBytesAfter: number;
}

interface DryRepair extends FixedFigures {
  readonly found: CheckFigures;
  readonly left: CheckFigures;
  readonly fixes: readonly {
    readonly severity: string;
    readonly message: string;
    readonly hostOffset?: number | undefined;
    readonly guestOffset?: number | undefined;
  }[];
}

/** What a repair would do, and what it would leave. */
export function dryRepairText(report: DryRepair, { fileBytes, fileBytesAfter }: FileLengths): string {
  const { leaksFixed, corruptionsFixed, left } = report;
  const length =
    fileBytes === fileBytesAfter ? '' : `    the file: ${fileBytes} bytes, then ${fileBytesAfter}\n`;
  return (
    'The following inconsistencies would be repaired:\n\n' +
    `    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n${length}\n` +
    `A check would then say:\n\n${checkText(left)}${nothingWritten}`
  );
}

/** The members of a check after that repair, what is there now, and each thing that would be put right. */
export function dryRepairJson(
  path: string,
  report: DryRepair,
  { fileBytes, fileBytesAfter }: FileLengths,
): { [key: string]: JsonValue | undefined } {
  const { corruptions, leaks, checkErrors } = report.found;
  return {
    ...checkJson(path, report.left, report),
    'dry-run': true,
    found: { corruptions, leaks, 'check-errors': checkErrors },
    'file-length': fileBytes,
    'file-length-after': fileBytesAfter,
    fixes: report.fixes.map(({ severity, message, hostOffset, guestOffset }) => ({
      severity,
      message,
      ...(hostOffset === undefined ? {} : { 'host-offset': hostOffset }),
      ...(guestOffset === undefined ? {} : { 'guest-offset': guestOffset }),
    })),
  };
}

export function checkText(figures: CheckFigures): string {
  const { corruptions, leaks, checkErrors } = figures;
  let text = '';
  if (corruptions === 0 && leaks === 0 && checkErrors === 0) text += 'No errors were found on the image.\n';
  if (corruptions > 0) {
    text += `\n${corruptions} errors were found on the image.\n`;
    text += 'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (leaks > 0) {
    text += `\n${leaks} leaked clusters were found on the image.\n`;
    text += 'This means waste of disk space, but no harm to data.\n';
  }
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  if (figures.totalClusters > 0 && figures.allocatedClusters > 0) text += allocationText(figures);
  if (figures.imageEndOffset > 0) text += `Image end offset: ${figures.imageEndOffset}\n`;
  return text;
}

function allocationText(figures: CheckFigures): string {
  const { totalClusters, allocatedClusters, fragmentedClusters, compressedClusters } = figures;
  const allocated = percent(allocatedClusters, totalClusters);
  const fragmented = percent(fragmentedClusters, allocatedClusters);
  const compressed = percent(compressedClusters, allocatedClusters);
  return (
    `${allocatedClusters}/${totalClusters} = ${allocated} allocated, ` +
    `${fragmented} fragmented, ${compressed} compressed clusters\n`
  );
}

/** Two digits as C prints them: what lies exactly between two goes to the even one. Only eighths can. */
function percent(part: number, whole: number): string {
  const value = (part * 100) / whole;
  if ((value * 8) % 2 !== 1) return `${value.toFixed(2)}%`;
  const below = Math.floor(value * 100);
  return `${((below + (below % 2)) / 100).toFixed(2)}%`;
}

function unlessZero(value: number): number | undefined {
  return value === 0 ? undefined : value;
}
