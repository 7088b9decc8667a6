/**
 * The copies and fills of a batch, in the order in which they were submitted. A revoke that comes later in the batch
 * stands before them in the record, so it is carried out on them here: what is left of each is logged.
 */
import type { CopyDescriptor, FillFromBackingDescriptor } from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset } from '@qcow2/spec';
import type { Microtransaction } from './microtransaction.ts';

export type CopyOrFill = CopyDescriptor | FillFromBackingDescriptor;

export class BatchedCopies {
  #descriptors: CopyOrFill[] = [];

  get descriptors(): readonly CopyOrFill[] {
    return this.#descriptors;
  }

  addOf({ copies = [], fills = [] }: Microtransaction): void {
    for (const { targetHostOffset, sourceHostOffset, lengthBytes } of copies) {
      this.#descriptors.push({
        type: 'copy',
        targetHostOffset: hostOffset(targetHostOffset),
        sourceHostOffset: hostOffset(sourceHostOffset),
        lengthBytes,
      });
    }
    for (const fill of fills) this.#descriptors.push({ type: 'fill-from-backing', ...fill });
  }

  revoke(start: number, lengthBytes: number): void {
    const end = start + lengthBytes;
    this.#descriptors = this.#descriptors.flatMap((each) => {
      const from: number = each.targetHostOffset;
      const to = from + each.lengthBytes;
      if (to <= start || end <= from) return [each];
      return [...part(each, 0, start - from), ...part(each, end - from, each.lengthBytes)];
    });
  }
}

/** A piece of a copy or a fill by places in its target; none where it is empty. */
function part(whole: CopyOrFill, from: number, to: number): CopyOrFill[] {
  if (from >= to) return [];
  const piece = { targetHostOffset: hostOffset(whole.targetHostOffset + from), lengthBytes: to - from };
  return whole.type === 'copy'
    ? [{ ...whole, ...piece, sourceHostOffset: hostOffset(whole.sourceHostOffset + from) }]
    : [{ ...whole, ...piece, guestOffset: guestOffset(whole.guestOffset + from) }];
}
