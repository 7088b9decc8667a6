/**
 * A device that fails on request: rules say which operations (by kind, named event, place, and how many
 * came before), and what befalls them. The idea of named events is QEMU's blkdebug; the faults are those of
 * real disks:
 *
 *  - `fail`: nothing is done, an error comes back;
 *  - `short`: the first bytes are done, then the error;
 *  - `torn`: some 512-byte sectors of a write land and others do not, then the error;
 *  - `delay`: the operation is held by a scheduler, before it is done or before it is reported as done.
 *
 * In mode `async` every operation goes through the scheduler, so that a driver can be tested on both its paths with
 * the same device below; and buffers that are lent for reading are filled with noise until the bytes come, so that
 * who looks too early is found out.
 *
 * Rules are matched when an operation is called, in the order of the calls. Every rule counts all operations
 * that fit it, whether or not another one strikes first; the first failing fault that is due decides, and a delay
 * goes together with it.
 */
import { StorageError } from '@qcow2/spec';
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
import { type FaultScheduler, ImmediateScheduler } from './fault-scheduler.ts';
import { isPromise, run, type Task, wait } from './task.ts';

export type FaultOperation = 'read' | 'write' | 'flush' | 'discard' | 'write_zeroes' | 'extents' | 'resize';
export type FaultErrno = 'EIO' | 'ENOSPC';

/** An operation as the rules and the scheduler see it. A resize has its new size as `lengthBytes`; a flush has neither. */
export interface FaultRequest {
  readonly operation: FaultOperation;
  readonly event: IoEvent | undefined;
  readonly offset: number;
  readonly lengthBytes: number;
}

export type Fault =
  | { readonly kind: 'fail'; readonly errno?: FaultErrno }
  /** Of read, write, write_zeroes, discard: `doneBytes` of it are done first. */
  | { readonly kind: 'short'; readonly doneBytes: number; readonly errno?: FaultErrno }
  /** Of write, write_zeroes: only these sectors land, counted from the one in which the request starts. */
  | { readonly kind: 'torn'; readonly lands: (sector: number) => boolean; readonly errno?: FaultErrno }
  | { readonly kind: 'delay'; readonly before?: 'start' | 'completion' };

export interface FaultRule {
  /** What must fit, all of what is given: kind of operation, event, overlap with a range. */
  readonly operation?: FaultOperation | readonly FaultOperation[];
  readonly event?: IoEvent | readonly IoEvent[];
  readonly range?: { readonly offset: number; readonly lengthBytes: number };
  /** Strike first at the nth operation that fits, from 1 on; 1 if not given. */
  readonly nth?: number;
  /** How many operations in a row are struck, from there; 1 if not given, Infinity for ever. */
  readonly times?: number;
  readonly fault: Fault;
}

/** A rule at work. */
export interface ActiveFault {
  readonly rule: FaultRule;
  /** Operations that fitted so far. */
  readonly matches: number;
  /** Operations that were struck so far. */
  readonly strikes: number;
  remove(): void;
}

export interface FaultDeviceOptions {
  readonly rules?: readonly FaultRule[];
  /** `as-below` (default): asynchronous where the device below is. `async`: every operation returns a promise. */
  readonly mode?: 'as-below' | 'async';
  /** Holds delayed operations, and in mode `async` all; lets go at once, in order, if not given. */
  readonly scheduler?: FaultScheduler;
}

type Failure = Exclude<Fault, { kind: 'delay' }>;
interface Plan {
  readonly failure: Failure | undefined;
  readonly holdStart: boolean;
  readonly holdCompletion: boolean;
}
type Piece = (from: number, lengthBytes: number) => void | Promise<void>;

const sectorBytes = 512;
const canBeShort: readonly FaultOperation[] = ['read', 'write', 'write_zeroes', 'discard'];
const canBeTorn: readonly FaultOperation[] = ['write', 'write_zeroes'];

export class FaultDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #async: boolean;
  readonly #scheduler: FaultScheduler;
  #active: Rule[] = [];

  /** Closing this closes `below`. */
  constructor(below: BlockDevice, options: FaultDeviceOptions = {}) {
    this.#below = below;
    this.#async = options.mode === 'async';
    this.#scheduler = options.scheduler ?? new ImmediateScheduler();
    for (const rule of options.rules ?? []) this.addRule(rule);
  }

  get capabilities(): DeviceCapabilities {
    return this.#below.capabilities;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  /** Put a rule to work, after those that are. */
  addRule(rule: FaultRule): ActiveFault {
    const active = new Rule(rule, () => {
      this.#active = this.#active.filter((other) => other !== active);
    });
    this.#active.push(active);
    return active;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    if (this.#async) into.fill(0xdb);
    return this.#serve(
      { operation: 'read', event: options?.event, offset, lengthBytes: into.length },
      () => this.#below.read(offset, into, options),
      (from, lengthBytes) =>
        this.#below.read(offset + from, into.subarray(from, from + lengthBytes), options),
    );
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#serve(
      { operation: 'write', event: options?.event, offset, lengthBytes: bytes.length },
      () => this.#below.write(offset, bytes, options),
      (from, lengthBytes) =>
        this.#below.write(offset + from, bytes.subarray(from, from + lengthBytes), options),
    );
  }

  flush(options?: FlushOptions): void | Promise<void> {
    const request = { operation: 'flush', event: options?.event, offset: 0, lengthBytes: 0 } as const;
    return this.#serve(request, () => this.#below.flush(options));
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    return this.#serve(
      { operation: 'discard', event: options?.event, offset, lengthBytes },
      () => this.#below.discard(offset, lengthBytes, options),
      (from, pieceBytes) => this.#below.discard(offset + from, pieceBytes, options),
    );
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    return this.#serve(
      { operation: 'write_zeroes', event: options?.event, offset, lengthBytes },
      () => this.#below.writeZeroes(offset, lengthBytes, options),
      (from, pieceBytes) => this.#below.writeZeroes(offset + from, pieceBytes, options),
    );
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    const request = { operation: 'extents', event: undefined, offset, lengthBytes } as const;
    return this.#serve(request, () => this.#below.extents(offset, lengthBytes));
  }

  resize(sizeBytes: number): void | Promise<void> {
    const request = { operation: 'resize', event: undefined, offset: 0, lengthBytes: sizeBytes } as const;
    return this.#serve(request, () => this.#below.resize(sizeBytes));
  }

  /** Never fails by a rule, and is not held back. */
  close(): void | Promise<void> {
    if (!this.#async) return this.#below.close();
    return Promise.resolve(this.#below.close());
  }

  #serve<T>(request: FaultRequest, whole: () => T | Promise<T>, piece?: Piece): T | Promise<T> {
    const plan = this.#plan(request);
    if (plan === undefined) return whole();
    return run(this.#carryOut(plan, request, whole, piece));
  }

  /** What befalls the operation; undefined where nothing does. Counts, so called once for each. */
  #plan(request: FaultRequest): Plan | undefined {
    let failure: Failure | undefined;
    let holdStart = this.#async;
    let holdCompletion = false;
    for (const active of this.#active) {
      if (!active.strikesNow(request)) continue;
      const { fault } = active.rule;
      if (fault.kind !== 'delay') failure ??= fault;
      else if (fault.before === 'completion') holdCompletion = true;
      else holdStart = true;
    }
    if (failure === undefined && !holdStart && !holdCompletion) return undefined;
    return { failure, holdStart, holdCompletion };
  }

  *#carryOut<T>(plan: Plan, request: FaultRequest, whole: () => T | Promise<T>, piece?: Piece): Task<T> {
    if (plan.holdStart) yield this.#scheduler.hold(request);
    if (plan.failure === undefined) {
      const value = yield* wait(whole());
      if (plan.holdCompletion) yield this.#scheduler.hold(request);
      return value;
    }
    for (const { from, lengthBytes } of doneInPart(plan.failure, request)) {
      const done = piece?.(from, lengthBytes);
      if (isPromise(done)) yield done;
    }
    if (plan.holdCompletion) yield this.#scheduler.hold(request);
    throw faultError(plan.failure, request);
  }
}

class Rule implements ActiveFault {
  readonly rule: FaultRule;
  readonly remove: () => void;
  matches = 0;
  strikes = 0;

  constructor(rule: FaultRule, remove: () => void) {
    this.rule = rule;
    this.remove = remove;
  }

  /** Count an operation that fits, and say whether it is one of those to be struck. */
  strikesNow(request: FaultRequest): boolean {
    if (!this.#fits(request)) return false;
    this.matches++;
    const first = this.rule.nth ?? 1;
    if (this.matches < first || this.matches >= first + (this.rule.times ?? 1)) return false;
    this.strikes++;
    return true;
  }

  #fits({ operation, event, offset, lengthBytes }: FaultRequest): boolean {
    const { rule } = this;
    if (rule.fault.kind === 'short' && !canBeShort.includes(operation)) return false;
    if (rule.fault.kind === 'torn' && !canBeTorn.includes(operation)) return false;
    if (rule.operation !== undefined && ![rule.operation].flat().includes(operation)) return false;
    if (rule.event !== undefined && (event === undefined || ![rule.event].flat().includes(event)))
      return false;
    if (rule.range === undefined) return true;
    // A flush and a resize have no place; a range does not fit them.
    if (operation === 'flush' || operation === 'resize') return false;
    return offset < rule.range.offset + rule.range.lengthBytes && rule.range.offset < offset + lengthBytes;
  }
}

/** The parts of a failing request that are done all the same, relative to its start. */
function* doneInPart(
  failure: Failure,
  { offset, lengthBytes }: FaultRequest,
): Generator<{ from: number; lengthBytes: number }, void, undefined> {
  if (failure.kind === 'short') {
    const doneBytes = Math.min(failure.doneBytes, lengthBytes);
    if (doneBytes > 0) yield { from: 0, lengthBytes: doneBytes };
  }
  if (failure.kind !== 'torn') return;
  const firstSector = Math.floor(offset / sectorBytes);
  for (let from = 0; from < lengthBytes; ) {
    const sector = Math.floor((offset + from) / sectorBytes);
    const end = Math.min(lengthBytes, (sector + 1) * sectorBytes - offset);
    if (failure.lands(sector - firstSector)) yield { from, lengthBytes: end - from };
    from = end;
  }
}

function faultError(failure: Failure, request: FaultRequest): StorageError {
  const { operation, offset, lengthBytes, event } = request;
  const context = { hostOffset: offset, lengthBytes };
  const where = event === undefined ? operation : `${operation} (${event})`;
  const cause = new StorageError('FAULT_INJECTED', `a test asked for this ${failure.kind} fault`, context);
  if (failure.errno === 'ENOSPC')
    return new StorageError('NO_SPACE', `no space for ${where}`, context, cause);
  if (operation === 'flush') return new StorageError('FLUSH_FAILED', `${where} failed`, {}, cause);
  const code = operation === 'read' || operation === 'extents' ? 'READ_FAILED' : 'WRITE_FAILED';
  return new StorageError(code, `${where} failed`, context, cause);
}
