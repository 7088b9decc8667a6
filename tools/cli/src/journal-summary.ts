/** One line on what the journal of a served image did, for `serve --verbose` when it ends. */
import type { JournalStatus } from '@qcow2/driver';

/** Undefined for an image without a journal, one of the draft's, or one that was served read-only. */
export function journalSummary(status: JournalStatus | undefined): string | undefined {
  const counters = status?.counters;
  const use = status?.use;
  if (counters === undefined || use === undefined) return undefined;
  if (!('groupSizes' in counters) || !('highWaterBytes' in use)) return undefined;
  const { commits, sharedCommits, flushes, records, recordBytes, payloadBytes } = counters;
  const percent = Math.round((use.highWaterBytes / use.ringBytes) * 100);
  return [
    `journal: ${commits + sharedCommits} flushes asked for, ${commits} commits (${groupsText(counters.groupSizes)}), ${flushes} flushes of the file`,
    `${records} records of ${recordBytes} bytes, ${payloadBytes} of them the guest's`,
    `metadata: ${counters.loggedBytes} bytes logged of ${counters.submittedBytes} submitted, ${counters.writtenBackBytes} written back`,
    `write-back: ${counters.rounds} rounds in ${counters.writeBackSteps} steps, ${counters.stalls} stalls; the ring was ${percent}% full at most`,
  ].join('; ');
}

/** `1: 20, 2: 4, 3-4: 1`: how many commits served groups of so many callers. */
function groupsText(groupSizes: readonly number[]): string {
  const groups = groupSizes.flatMap((count, index) => (count === 0 ? [] : [`${groupName(index)}: ${count}`]));
  return groups.length === 0 ? 'none' : `by group size ${groups.join(', ')}`;
}

function groupName(index: number): string {
  const most = 2 ** index;
  const least = index === 0 ? 1 : 2 ** (index - 1) + 1;
  return least === most ? String(most) : `${least}-${most}`;
}
