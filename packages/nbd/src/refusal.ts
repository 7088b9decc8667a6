/**
 * Which requests never reach the device, and with what error: a table of the commands, and the checks in
 * the order in which they are made. After a refusal the connection goes on; only a stream out of step ends it.
 */
import { nbdErrno, Qcow2Error } from '@qcow2/spec';
import type { ServedExport } from './export.ts';
import { command, commandFlag } from './protocol.ts';
import type { NbdRequest } from './request-parser.ts';

export interface Refusal {
  readonly errno: number;
  readonly message: string;
}

interface CommandRule {
  /** flags that may be set, besides FUA, which every command takes */
  readonly flags: number;
  readonly writes: boolean;
  /** the length is held against the largest payload */
  readonly limited: boolean;
  /** error of a range beyond the end */
  readonly beyondEnd: number;
}

const { EINVAL, ENOSPC, EPERM, EOVERFLOW, ENOTSUP, EIO } = nbdErrno;

const rules: readonly (CommandRule | undefined)[] = (() => {
  const { NO_HOLE, DF, REQ_ONE, FAST_ZERO } = commandFlag;
  const table: CommandRule[] = [];
  table[command.READ] = { flags: DF, writes: false, limited: true, beyondEnd: EINVAL };
  table[command.WRITE] = { flags: 0, writes: true, limited: true, beyondEnd: ENOSPC };
  table[command.TRIM] = { flags: 0, writes: true, limited: false, beyondEnd: EINVAL };
  table[command.CACHE] = { flags: 0, writes: false, limited: true, beyondEnd: EINVAL };
  table[command.WRITE_ZEROES] = {
    flags: NO_HOLE | FAST_ZERO,
    writes: true,
    limited: false,
    beyondEnd: ENOSPC,
  };
  table[command.BLOCK_STATUS] = { flags: REQ_ONE, writes: false, limited: false, beyondEnd: EINVAL };
  table[command.FLUSH] = { flags: 0, writes: true, limited: false, beyondEnd: EINVAL };
  return table;
})();

const refusals = {
  command: { errno: EINVAL, message: 'unknown command' },
  flags: { errno: EINVAL, message: 'a flag that the command does not take' },
  readOnly: { errno: EPERM, message: 'the export is read-only' },
  noTrim: { errno: EINVAL, message: 'the export does not trim' },
  noContext: { errno: EINVAL, message: 'no metadata context was negotiated' },
  emptyStatus: { errno: EINVAL, message: 'a block status of no bytes' },
  flushRange: { errno: EINVAL, message: 'a flush has no offset and no length' },
  length: { errno: EINVAL, message: 'longer than the maximum payload' },
  unfragmented: { errno: EOVERFLOW, message: 'too long for one fragment' },
  alignment: { errno: EINVAL, message: 'not aligned to the minimum block size' },
  range: { errno: EINVAL, message: 'beyond the end of the export' },
  space: { errno: ENOSPC, message: 'beyond the end of the export' },
  slowZero: { errno: ENOTSUP, message: 'zeroing is not faster than writing here' },
} as const satisfies Record<string, Refusal>;

/** Why the request can not be served, or undefined where the device is to be asked. */
export function refusalOf(
  request: NbdRequest,
  served: ServedExport,
  structured: boolean,
  hasContexts: boolean,
): Refusal | undefined {
  const { type, flags, offset, lengthBytes } = request;
  const rule = rules[type];
  if (rule === undefined) return refusals.command;
  if ((flags & ~(rule.flags | commandFlag.FUA)) !== 0) return refusals.flags;
  if ((flags & commandFlag.DF) !== 0 && !structured) return refusals.flags;
  if (rule.writes && served.readOnly) return refusals.readOnly;
  if (rule.limited && lengthBytes > served.maximumPayloadBytes) {
    return (flags & commandFlag.DF) !== 0 ? refusals.unfragmented : refusals.length;
  }
  const block = served.minimumBlockBytes;
  if (block > 1 && (offset % block !== 0 || lengthBytes % block !== 0)) return refusals.alignment;
  if (offset + lengthBytes > served.device.sizeBytes) {
    return rule.beyondEnd === ENOSPC ? refusals.space : refusals.range;
  }
  switch (type) {
    case command.FLUSH:
      return offset === 0 && lengthBytes === 0 ? undefined : refusals.flushRange;
    case command.TRIM:
      return served.device.capabilities.discard ? undefined : refusals.noTrim;
    case command.BLOCK_STATUS:
      if (!hasContexts) return refusals.noContext;
      return lengthBytes > 0 ? undefined : refusals.emptyStatus;
    case command.WRITE_ZEROES:
      return (flags & commandFlag.FAST_ZERO) === 0 || zeroesFast(request, served)
        ? undefined
        : refusals.slowZero;
    default:
      return undefined;
  }
}

/**
 * FAST_ZERO asks for an honest answer at once: fast is what the device declares fast, on whole blocks of
 * its own, since the rest of a block may have to be written out.
 */
function zeroesFast({ offset, lengthBytes }: NbdRequest, { device }: ServedExport): boolean {
  const { writeZeroes, preferredBlockBytes } = device.capabilities;
  const end = offset + lengthBytes;
  return (
    writeZeroes &&
    offset % preferredBlockBytes === 0 &&
    (end % preferredBlockBytes === 0 || end === device.sizeBytes)
  );
}

/**
 * The error number of a failed device call. The protocol keeps ENOTSUP for the answer to FAST_ZERO; a
 * device that can not do something else is EINVAL to the client, and the message tells more.
 */
export function errnoOf(error: unknown): number {
  if (!(error instanceof Qcow2Error)) return EIO;
  return error.nbdErrno === ENOTSUP ? EINVAL : error.nbdErrno;
}
