/**
 * What each 512-byte sector of the guest's disk may hold, at any moment and after a crash at any moment.
 *
 * A sector's history is a list of contents in the order in which they were written. A flush raises the floor
 * to the last content whose write was done when the flush was called. A reader sees the last content; after a
 * crash any content from the floor on may stand there. A discard may be heeded or not: zeros are added, and what was
 * there may stay.
 *
 * Requests that are under way at the same time do not overlap here, so the order is never in doubt.
 */
import { sectorBytes } from './crash-states.ts';

const never = Number.POSITIVE_INFINITY;

interface Content {
  readonly bytes: Uint8Array;
  /** Device time at which the request was made. */
  readonly madeAt: number;
  /** Order of the request's end among the guest's requests; Infinity while it is under way. */
  doneOrder: number;
  /** Device time at which the request was acknowledged as durable; Infinity: not before a flush. */
  durableAt: number;
  /** The content before may stay: a discard. */
  readonly optional: boolean;
}

interface Flush {
  /** Order of the call among the guest's requests. */
  readonly calledOrder: number;
  /** Device time at which it was acknowledged. */
  readonly acknowledgedAt: number;
}

/** The request is done; `durable`: with FUA. */
export type Done = (durable?: boolean) => void;

export class GuestHistory {
  readonly #sectors: Content[][];
  readonly #flushes: Flush[] = [];
  readonly #now: () => number;
  #order = 0;
  #sizeBytes: number;

  constructor(initial: Uint8Array, now: () => number) {
    this.#now = now;
    this.#sizeBytes = initial.length;
    this.#sectors = [];
    for (let at = 0; at < initial.length; at += sectorBytes) {
      const bytes = initial.slice(at, at + sectorBytes);
      this.#sectors.push([{ bytes, madeAt: 0, doneOrder: 0, durableAt: 0, optional: false }]);
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The disk is made larger; call the result when it is. What is new reads as zeros. */
  grow(lengthBytes: number): Done {
    const added: Content[] = [];
    for (let at = 0; at < lengthBytes; at += sectorBytes) {
      const sector = (this.#sizeBytes + at) / sectorBytes;
      const history = this.#sectors[sector] ?? [];
      added.push(this.#add(history, new Uint8Array(sectorBytes), false));
      this.#sectors[sector] = history;
    }
    this.#sizeBytes += lengthBytes;
    return this.#done(added);
  }

  /** A write is made; call the result when it is done. */
  write(offset: number, bytes: Uint8Array): Done {
    const added: Content[] = [];
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      const inSector = at % sectorBytes;
      const length = Math.min(bytes.length - done, sectorBytes - inSector);
      const history = this.#sectors[(at - inSector) / sectorBytes]!;
      // Part of a sector over one that a discard left in doubt: the rest may be either.
      const bases = length < sectorBytes ? this.#visible(history) : [history.at(-1)!];
      bases.forEach((base, i) => {
        const content = base.bytes.slice();
        content.set(bytes.subarray(done, done + length), inSector);
        added.push(this.#add(history, content, i > 0));
      });
      done += length;
    }
    return this.#done(added);
  }

  /** Zeros; `optional` for a discard. */
  zero(offset: number, lengthBytes: number, optional: boolean): Done {
    if (!optional) return this.write(offset, new Uint8Array(lengthBytes));
    const added: Content[] = [];
    const first = Math.ceil(offset / sectorBytes);
    const last = Math.floor((offset + lengthBytes) / sectorBytes);
    for (let sector = first; sector < last; sector++) {
      added.push(this.#add(this.#sectors[sector]!, new Uint8Array(sectorBytes), true));
    }
    return this.#done(added);
  }

  /** A flush is called; call the result when it is acknowledged. */
  flush(): Done {
    const calledOrder = ++this.#order;
    return () => {
      this.#flushes.push({ calledOrder, acknowledgedAt: this.#now() });
    };
  }

  /** Where what `seen` shows is not what may be read now: a message. */
  readMismatch(offset: number, seen: Uint8Array): string | undefined {
    return this.#mismatch(offset, seen, (history) => this.#visible(history));
  }

  /** Where an image that was recovered from a crash at `time` shows what may not be: a message. */
  crashMismatch(time: number, seen: Uint8Array): string | undefined {
    const floorOrder = this.#floorOrder(time);
    const missing = this.#sectors[seen.length / sectorBytes]?.[0];
    if (missing !== undefined && missing.doneOrder <= floorOrder)
      return `the disk has ${seen.length} bytes only`;
    return this.#mismatch(0, seen, (history) => {
      let floor = 0;
      for (const [i, { doneOrder, durableAt, optional }] of history.entries()) {
        if ((doneOrder <= floorOrder || durableAt <= time) && !optional) floor = i;
      }
      return history.slice(floor).filter(({ madeAt }) => madeAt <= time);
    });
  }

  /** The image was opened anew and shows this: from here on nothing is in doubt for readers. */
  settle(seen: Uint8Array): void {
    // A disk that was made larger, and not flushed, may be as it was: then what it was to hold was never done.
    this.#sizeBytes = seen.length;
    for (const history of this.#sectors.slice(seen.length / sectorBytes)) {
      for (const content of history) Object.assign(content, { doneOrder: never, durableAt: never });
    }
    for (const [sector, history] of this.#sectors.slice(0, seen.length / sectorBytes).entries()) {
      const bytes = seen.slice(sector * sectorBytes, (sector + 1) * sectorBytes);
      if (equal(history.at(-1)!.bytes, bytes) && !history.at(-1)!.optional) continue;
      this.#done([this.#add(history, bytes, false)])();
    }
  }

  /** The last request that a flush acknowledged by then covers. */
  #floorOrder(time: number): number {
    let order = 0;
    for (const { calledOrder, acknowledgedAt } of this.#flushes) {
      if (acknowledgedAt <= time) order = Math.max(order, calledOrder);
    }
    return order;
  }

  #add(history: Content[], bytes: Uint8Array, optional: boolean): Content {
    const content = { bytes, madeAt: this.#now(), doneOrder: never, durableAt: never, optional };
    history.push(content);
    return content;
  }

  #done(added: readonly Content[]): Done {
    return (durable = false) => {
      const order = ++this.#order;
      for (const content of added) {
        content.doneOrder = order;
        if (durable) content.durableAt = this.#now();
      }
    };
  }

  /** What a reader may see: back to the last that is done and was no discard. */
  #visible(history: readonly Content[]): readonly Content[] {
    let first = history.length - 1;
    while (first > 0 && (history[first]!.optional || history[first]!.doneOrder === never)) {
      first--;
    }
    return history.slice(first);
  }

  #mismatch(
    offset: number,
    seen: Uint8Array,
    allowed: (history: readonly Content[]) => readonly Content[],
  ): string | undefined {
    for (let at = 0; at < seen.length; at += sectorBytes) {
      const sector = (offset + at) / sectorBytes;
      const bytes = seen.subarray(at, at + sectorBytes);
      const contents = allowed(this.#sectors[sector]!);
      if (contents.some((content) => equal(content.bytes, bytes))) continue;
      const wanted = contents.map((content) => brief(content.bytes)).join(' or ');
      return `guest sector ${sector} holds ${brief(bytes)}, may hold ${wanted}`;
    }
    return undefined;
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return a.length === b.length;
}

function brief(bytes: Uint8Array): string {
  const first = [...bytes.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${first}…${bytes.at(-1)!.toString(16).padStart(2, '0')}`;
}
