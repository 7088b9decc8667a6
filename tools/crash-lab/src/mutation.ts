/**
 * Ways to break the ground under a system: the lab must notice each. A mutation changes what a recorded log
 * means to the crash model, not what the system sees while it lives: its own reads still show its writes.
 */
import type { IoEvent, RecordedFlush, RecordedOperation } from '@qcow2/block-device';

export interface DeviceMutation {
  /** Letters, digits, `-` and `_`: it is part of the ids of states. */
  readonly name: string;
  /** The log as the broken device would have carried it out. Must not change the operations themselves. */
  apply(log: readonly RecordedOperation[]): readonly RecordedOperation[];
}

/** Flushes with this event are acknowledged and not carried out: no barrier, nothing made durable. */
export function swallowFlushes(event: IoEvent): DeviceMutation {
  return withoutFlushes(`swallow-${event}`, (flush) => flush.event === event);
}

/** Flush number `n` of a run (from 0) is acknowledged and not carried out. */
export function swallowFlush(n: number): DeviceMutation {
  return {
    name: `swallow-${n}`,
    apply: (log) => {
      const victim = log.filter(({ kind }) => kind === 'flush')[n];
      return log.filter((operation) => operation !== victim);
    },
  };
}

/** No barrier before a write with this event: the flushes since the last other write are not carried out. */
export function unorderedWrites(event: IoEvent): DeviceMutation {
  return withoutFlushes(`unordered-${event}`, (flush, log) => {
    const next = log.slice(log.indexOf(flush)).find(({ kind }) => kind !== 'flush');
    return next?.event === event;
  });
}

/** Writes with this event never reach the disk. */
export function dropWrites(event: IoEvent): DeviceMutation {
  return {
    name: `drop-${event}`,
    apply: (log) => log.filter((operation) => operation.kind === 'flush' || operation.event !== event),
  };
}

/** The mutation that a name stands for, or undefined. */
export function namedMutation(name: string): DeviceMutation | undefined {
  const parts = /^(swallow|unordered|drop)-(\w+)$/.exec(name);
  if (parts === null) return undefined;
  const [, kind, what] = parts;
  if (kind === 'swallow' && /^\d+$/.test(what!)) return swallowFlush(Number(what));
  const event = what as IoEvent;
  if (kind === 'swallow') return swallowFlushes(event);
  return kind === 'unordered' ? unorderedWrites(event) : dropWrites(event);
}

function withoutFlushes(
  name: string,
  isVictim: (flush: RecordedFlush, log: readonly RecordedOperation[]) => boolean,
): DeviceMutation {
  return {
    name,
    apply: (log) => log.filter((operation) => operation.kind !== 'flush' || !isVictim(operation, log)),
  };
}
