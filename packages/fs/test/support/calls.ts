/** System calls for tests: the real ones with a log and switches, and a disk that is played. */
import {
  type AllocationChange,
  type FileCalls,
  type FileStatus,
  type NativeCalls,
  nativeSupport,
  nodeCalls,
} from '../../src/index.ts';

/** What Node throws. */
export function systemError(errno: string): Error {
  return Object.assign(new RangeError(`${errno}: asked for by a test`), { code: errno });
}

export type CallName = keyof FileCalls;

/** The real calls, each logged by name; `before` may throw in place of one. */
export class LoggedCalls implements FileCalls {
  readonly log: CallName[] = [];
  /** Called before each; what it throws is the call's failure. */
  before: (call: CallName) => void = () => undefined;
  /** At most so many bytes per read or write. */
  mostBytes = Number.POSITIVE_INFINITY;
  /** None, unless a test asks for them. */
  native: NativeCalls | undefined;
  /** Held fdatasyncs of the thread pool go on when these are resolved. */
  gates: PromiseWithResolvers<void>[] | undefined;

  count(...calls: CallName[]): number {
    return this.log.filter((call) => calls.includes(call)).length;
  }

  readonly open = (path: string, flags: number, mode: number) =>
    this.#real('open', () => nodeCalls.open(path, flags, mode));
  readonly close = (fd: number) => this.#real('close', () => nodeCalls.close(fd));
  readonly status = (fd: number): FileStatus => this.#real('status', () => nodeCalls.status(fd));
  readonly truncate = (fd: number, sizeBytes: number) =>
    this.#real('truncate', () => nodeCalls.truncate(fd, sizeBytes));
  readonly synchronize = (fd: number) => this.#real('synchronize', () => nodeCalls.synchronize(fd));
  readonly readSync: FileCalls['readSync'] = (fd, into, start, lengthBytes, offset) =>
    this.#real('readSync', () =>
      nodeCalls.readSync(fd, into, start, Math.min(lengthBytes, this.mostBytes), offset),
    );
  readonly writeSync: FileCalls['writeSync'] = (fd, bytes, start, lengthBytes, offset) =>
    this.#real('writeSync', () =>
      nodeCalls.writeSync(fd, bytes, start, Math.min(lengthBytes, this.mostBytes), offset),
    );
  readonly datasyncSync = (fd: number) => this.#real('datasyncSync', () => nodeCalls.datasyncSync(fd));
  readonly read: FileCalls['read'] = async (fd, into, start, lengthBytes, offset) =>
    this.#real('read', () => nodeCalls.read(fd, into, start, Math.min(lengthBytes, this.mostBytes), offset));
  readonly write: FileCalls['write'] = async (fd, bytes, start, lengthBytes, offset) =>
    this.#real('write', () =>
      nodeCalls.write(fd, bytes, start, Math.min(lengthBytes, this.mostBytes), offset),
    );
  readonly datasync = async (fd: number): Promise<void> => {
    if (this.gates !== undefined) {
      const gate = Promise.withResolvers<void>();
      this.gates.push(gate);
      await gate.promise;
    }
    return this.#real('datasync', () => nodeCalls.datasync(fd));
  };

  #real<T>(call: CallName, perform: () => T): T {
    this.log.push(call);
    this.before(call);
    return perform();
  }
}

/** A disk of a fixed size, as `open` and `fstat` show one: no size, and reads at its end that give nothing. */
export function playedDisk(status: FileStatus, sizeBytes: number, atEnd?: string): FileCalls {
  const bytes = new Uint8Array(Math.min(sizeBytes, 1 << 20));
  return {
    ...nodeCalls,
    native: undefined,
    open: () => 1_000_000,
    close: () => undefined,
    status: () => status,
    datasyncSync: () => undefined,
    readSync: (_fd, into, start, lengthBytes, offset) => {
      if (offset >= sizeBytes && atEnd !== undefined) throw systemError(atEnd);
      const count = Math.max(0, Math.min(lengthBytes, sizeBytes - offset));
      into.set(bytes.subarray(offset, offset + count), start);
      return count;
    },
    writeSync: (_fd, from, start, lengthBytes, offset) => {
      bytes.set(from.subarray(start, start + lengthBytes), offset);
      return lengthBytes;
    },
  };
}

/** The real calls for space and holes, logged; each change that a test names is one that the file system lacks. */
export class LoggedNative implements NativeCalls {
  readonly log: string[] = [];
  readonly lacking = new Set<AllocationChange>();
  /** The error number of every copy; none if not set. */
  refusesCopies: string | undefined;
  /** Called before each change; what it throws is the call's failure. */
  before: (change: AllocationChange) => void = () => undefined;
  readonly #real = realNative();

  readonly allocate: NativeCalls['allocate'] = (fd, change, offset, lengthBytes) => {
    this.#enter(change, `${offset}+${lengthBytes}`);
    for (const step of steps(change)) this.#real.allocate(fd, step, offset, lengthBytes);
  };
  readonly allocateInThread: NativeCalls['allocateInThread'] = async (fd, change, offset, lengthBytes) => {
    this.#enter(change, `${offset}+${lengthBytes} in the pool`);
    for (const step of steps(change)) await this.#real.allocateInThread(fd, step, offset, lengthBytes);
  };
  readonly seek = this.#real.seek;
  readonly readCached = this.#real.readCached;
  readonly copyRange = this.#real.copyRange;
  readonly copyRangeInThread: NativeCalls['copyRangeInThread'] = async (
    from,
    fromOffset,
    to,
    toOffset,
    lengthBytes,
  ) => {
    this.log.push(`copy ${fromOffset} to ${toOffset}+${lengthBytes}`);
    if (this.refusesCopies !== undefined) throw systemError(this.refusesCopies);
    return await this.#real.copyRangeInThread(from, fromOffset, to, toOffset, lengthBytes);
  };
  readonly lock = this.#real.lock;
  readonly unlock = this.#real.unlock;
  readonly isLocked = this.#real.isLocked;

  #enter(change: AllocationChange, range: string): void {
    this.log.push(`${change} ${range}`);
    this.before(change);
    if (this.lacking.has(change)) throw systemError('ENOTSUP');
  }
}

/** Zeroed ranges are played: where temporary files live in memory, the file system has none. */
function steps(change: AllocationChange): readonly AllocationChange[] {
  return change === 'zero-range' ? ['punch-hole', 'keep-size'] : [change];
}

/** The tests of what native calls do want them. */
export function realNative(): NativeCalls {
  const { calls, missing } = nativeSupport();
  if (calls === undefined) throw systemError(`these tests want native calls: ${missing}`);
  return calls;
}
