/** The ways in which one operation of the device fails, each with a name that stands in a case's id. */
import type { FaultOperation, FaultRule } from '@qcow2/block-device';

export interface FaultKind {
  readonly name: string;
  /** Operations that are counted together: a fault strikes the nth of them. */
  readonly operation: readonly FaultOperation[];
  readonly rule: (nth: number) => FaultRule;
  /** Who made room ahead, and found none, may ask for less: then nobody needs to hear of it. */
  readonly mayBeAbsorbed?: boolean;
}

const reads: readonly FaultOperation[] = ['read'];
const writes: readonly FaultOperation[] = ['write', 'write_zeroes', 'discard'];
const resizes: readonly FaultOperation[] = ['resize'];
const flushes: readonly FaultOperation[] = ['flush'];
const forGood = Number.POSITIVE_INFINITY;

function kind(
  name: string,
  operation: readonly FaultOperation[],
  fault: FaultRule['fault'],
  times = 1,
): FaultKind {
  return { name, operation, rule: (nth) => ({ operation, nth, times, fault }) };
}

export const faultKinds: readonly FaultKind[] = [
  kind('read-eio', reads, { kind: 'fail' }),
  kind('read-eio-for-good', reads, { kind: 'fail' }, forGood),
  kind('read-short', reads, { kind: 'short', doneBytes: 256 }),
  kind('write-eio', writes, { kind: 'fail' }),
  kind('write-eio-for-good', writes, { kind: 'fail' }, forGood),
  kind('write-enospc', writes, { kind: 'fail', errno: 'ENOSPC' }),
  kind('write-enospc-for-good', writes, { kind: 'fail', errno: 'ENOSPC' }, forGood),
  kind('write-short', writes, { kind: 'short', doneBytes: 512 }),
  kind('write-torn', writes, { kind: 'torn', lands: (sector) => sector % 2 === 1 }),
  kind('resize-eio', resizes, { kind: 'fail' }),
  { ...kind('resize-enospc', resizes, { kind: 'fail', errno: 'ENOSPC' }), mayBeAbsorbed: true },
  {
    ...kind('resize-enospc-for-good', resizes, { kind: 'fail', errno: 'ENOSPC' }, forGood),
    mayBeAbsorbed: true,
  },
  kind('flush-eio', flushes, { kind: 'fail' }),
  kind('flush-eio-for-good', flushes, { kind: 'fail' }, forGood),
];
