/**
 * Metadata contexts beside base:allocation: what a server can say of ranges of an export, in numbers whose meaning the
 * context's name says. Their content is the caller's; here stand the limits that the protocol sets.
 */
import { InvariantError } from '@qcow2/spec';
import { allocationContext } from './protocol.ts';
import type { StatusDescriptor } from './reply.ts';

/** A range and what is said of it; the next one begins where it ends. */
export interface StatusRun {
  readonly lengthBytes: number;
  /** 32 bits. */
  readonly status: number;
}

export interface NbdMetadataContext {
  /** `qemu:dirty-bitmap:monday`: what clients ask for. At most 4096 bytes of UTF-8, with a colon. */
  readonly name: string;
  /**
   * What is to be said from `offset` on: at least one run, none of them empty, each a multiple of the export's minimum block
   * size. May end early, and after `maximumRuns`; what is beyond `lengthBytes` is cut off.
   */
  status(offset: number, lengthBytes: number, maximumRuns: number): Promise<readonly StatusRun[]>;
}

/** A context of an export, and the number that it has on every connection. */
export interface NumberedContext {
  readonly id: number;
  readonly name: string;
  /** Undefined: base:allocation, which comes from the device's extents. */
  readonly source: NbdMetadataContext | undefined;
}

export function numberedContexts(contexts: readonly NbdMetadataContext[]): NumberedContext[] {
  const { id, name } = allocationContext;
  const others = contexts.map((source, index) => ({ id: id + 1 + index, name: source.name, source }));
  return [{ id, name, source: undefined }, ...others];
}

/** Whether a query of a listing means a context: its name, or a beginning of it that ends with a colon. */
export function isListedBy(name: string, query: string): boolean {
  return query === name || (query.endsWith(':') && name.startsWith(query));
}

/** Neighbours differ; at most `maximumCount`, at most `lengthBytes`. */
export function contextDescriptors(
  runs: readonly StatusRun[],
  lengthBytes: number,
  maximumCount: number,
): StatusDescriptor[] {
  const descriptors: StatusDescriptor[] = [];
  let left = lengthBytes;
  for (const run of runs) {
    const length = Math.min(left, run.lengthBytes);
    if (length <= 0) break;
    const last = descriptors.at(-1);
    if (last?.status === run.status) last.lengthBytes += length;
    else if (descriptors.length === maximumCount) break;
    else descriptors.push({ lengthBytes: length, status: run.status });
    left -= length;
  }
  // The protocol has no way to say nothing.
  if (descriptors.length === 0) throw new InvariantError('a metadata context that says nothing of a range');
  return descriptors;
}
