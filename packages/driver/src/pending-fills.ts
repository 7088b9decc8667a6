/**
 * Parts of mapped clusters whose bytes stand elsewhere still: the log holds a copy or a fill from backing for them
 * (JRN-COPY). By target host cluster.
 *
 * A part is *live* from the change that names it in the log until a revoke of it is durable. While it is live, a
 * crash brings the bytes of its source back over it. It is *unfilled* until somebody has written it in place: the
 * guest, or write-back with the bytes of the source. Reads of unfilled parts are served from the source.
 *
 * Crash argument. Replay writes over a live part what stood in its source when it was logged, and that is what the
 * last flush before promised. Whoever writes a live part in place submits a revoke of it in the same step, which
 * enters a record only after a flush that covers the bytes: so a crash finds the old bytes (from the source), or the revoke and
 * the new bytes, and a guest's flush is acknowledged with the revoke durable. The source does not change meanwhile: its
 * clusters are pinned, and the allocator hands out none of them before the last part that is copied from them is
 * gone. The bytes of a source are therefore the same at every replay, and replay may be repeated.
 *
 * A log may end copies by itself: when it can not ask for one any more, the change's parts are gone (`onRetired`), however they
 * stand in place. Until then they are live, and a guest's write to one is revoked all the same.
 *
 * Invariants: parts of a cluster are whole sectors, in order, and do not overlap; a live part that is not unfilled
 * has a revoke on its way, or ends with its change; no source is a target.
 *
 * A recovered log is not trusted: what no writer may ask for is refused by clause. So a cluster has at most one
 * part for each sector, however long the log is.
 */
import { FormatError } from '@qcow2/spec';
import { sectorBytes } from './guest-overlay.ts';
import type { ClusterRange } from './sector-map.ts';

/** Where bytes stand until they are copied. */
export type FillSource =
  | { readonly kind: 'copy'; readonly hostOffset: number }
  | { readonly kind: 'backing'; readonly guestOffset: number };

/** A host range and the source of its first byte; without one it stands in place. */
export interface FillSegment {
  readonly hostOffset: number;
  readonly lengthBytes: number;
  readonly source: FillSource | undefined;
}

interface Part extends ClusterRange {
  readonly source: FillSource;
  readonly unfilled: boolean;
  /** When it was added. */
  readonly time: number;
}

interface Target {
  readonly parts: Part[];
  /** Source clusters of what was ever added while it is here. */
  readonly pins: Set<number>;
}

/** Who keeps clusters from being handed out. */
export interface SourcePins {
  pin(cluster: number): void;
  unpin(cluster: number): void;
}

export class PendingFills {
  readonly #clusterBytes: number;
  readonly #targets = new Map<number, Target>();
  /** By source cluster, the target clusters that pin it. */
  readonly #pinned = new Map<number, Set<number>>();
  #time = 0;
  #durableTime = 0;
  #liveParts = 0;
  #pins: SourcePins | undefined;

  constructor(clusterBytes: number) {
    this.#clusterBytes = clusterBytes;
  }

  /** Set by the allocator, once; what is pinned already is pinned there then. */
  set pins(pins: SourcePins) {
    this.#pins = pins;
    for (const cluster of this.#pinned.keys()) pins.pin(cluster);
  }

  get isEmpty(): boolean {
    return this.#targets.size === 0;
  }

  /** How many parts are live. */
  get liveParts(): number {
    return this.#liveParts;
  }

  /** Whether bytes of the cluster are still to be copied from there. */
  isSource(cluster: number): boolean {
    return this.#pinned.has(cluster);
  }

  /** Whether a live part touches the host range, which lies in one cluster. */
  touches(hostOffset: number, lengthBytes: number): boolean {
    if (this.#targets.size === 0) return false;
    const start = hostOffset % this.#clusterBytes;
    const target = this.#targets.get((hostOffset - start) / this.#clusterBytes);
    if (target === undefined) return false;
    const part = target.parts[firstBehind(target.parts, start)];
    return part !== undefined && part.start < start + lengthBytes;
  }

  /** Host clusters with unfilled parts that were added up to `time`, in order, with how many bytes are unfilled. */
  unfilled(time = this.#time): { readonly hostCluster: number; readonly bytes: number }[] {
    const found: { hostCluster: number; bytes: number }[] = [];
    for (const [hostCluster, { parts }] of this.#targets) {
      const wanted = parts.filter((part) => part.unfilled && part.time <= time);
      const bytes = wanted.reduce((sum, part) => sum + part.end - part.start, 0);
      if (bytes > 0) found.push({ hostCluster, bytes });
    }
    return found.sort((a, b) => a.hostCluster - b.hostCluster);
  }

  /** Unfilled parts of a cluster that were added up to `time`. */
  unfilledIn(hostCluster: number, time = this.#time): (ClusterRange & { readonly source: FillSource })[] {
    const parts = this.#targets.get(hostCluster)?.parts ?? [];
    return parts.filter((part) => part.unfilled && part.time <= time);
  }

  /** A host range cut into what stands in place and what stands elsewhere; it may span clusters. */
  segments(hostOffset: number, lengthBytes: number): FillSegment[] {
    const segments: FillSegment[] = [];
    const end = hostOffset + lengthBytes;
    let plain = hostOffset;
    const add = (at: number, to: number, source: FillSource | undefined): void => {
      if (to > at) segments.push({ hostOffset: at, lengthBytes: to - at, source });
    };
    const first = Math.floor(hostOffset / this.#clusterBytes);
    for (let cluster = first; cluster * this.#clusterBytes < end; cluster++) {
      const base = cluster * this.#clusterBytes;
      for (const part of this.#targets.get(cluster)?.parts ?? []) {
        const from = Math.max(hostOffset, base + part.start);
        const to = Math.min(end, base + part.end);
        if (!part.unfilled || from >= to) continue;
        add(plain, from, undefined);
        add(from, to, movedSource(part.source, from - base - part.start));
        plain = to;
      }
    }
    add(plain, end, undefined);
    return segments;
  }

  /**
   * From now on the range is filled from a source, whatever was to be brought there before.
   * @param at host offset of the record that asks for it, for errors
   * @throws BAD_FIELD for a range that is not whole sectors of one cluster [JRN-COPY-007]; OVERLAP where it is the
   *   source of a live copy [JRN-COPY-004], or its source the target of one [JRN-COPY-008]
   */
  add(hostOffset: number, lengthBytes: number, source: FillSource, at: number): void {
    const start = hostOffset % this.#clusterBytes;
    const end = start + lengthBytes;
    const hostCluster = (hostOffset - start) / this.#clusterBytes;
    refuseUneven(start, end, at, hostOffset);
    if (end > this.#clusterBytes) throw uneven('reaches beyond a cluster', at, hostOffset);
    this.#refuseChange(hostOffset, lengthBytes, at);
    if (source.kind === 'copy' && !this.isEmpty) this.#refuseChain(source.hostOffset, lengthBytes, at);
    let target = this.#targets.get(hostCluster);
    if (target === undefined) {
      target = { parts: [], pins: new Set() };
      this.#targets.set(hostCluster, target);
    }
    this.#replace(target.parts, start, end, () => undefined);
    const part = { start, end, source, unfilled: true, time: ++this.#time };
    target.parts.splice(firstBehind(target.parts, start), 0, part);
    this.#liveParts++;
    if (source.kind === 'copy') this.#pin(hostCluster, target, source.hostOffset, lengthBytes);
  }

  /**
   * The range, whole sectors of one cluster, stands in place now. Whoever wrote other bytes there than those of the source submits
   * a revoke; so does who wrote those, unless the log ends copies by itself.
   */
  written(hostOffset: number, lengthBytes: number): void {
    const start = hostOffset % this.#clusterBytes;
    const target = this.#targets.get((hostOffset - start) / this.#clusterBytes);
    if (target === undefined) return;
    this.#replace(target.parts, start, start + lengthBytes, (part) => ({ ...part, unfilled: false }));
  }

  /** For `end`: a revoke that is submitted now ends what was added until now. */
  get now(): number {
    return this.#time;
  }

  /** What was added up to this time is durable in the log. Changes become durable in the order in which they were submitted. */
  get durableTime(): number {
    return this.#durableTime;
  }

  becameDurable(time: number): void {
    this.#durableTime = time;
  }

  /** A revoke of the range is durable, which was submitted at `time`; or the log has ended by itself what was added until then. */
  end(hostOffset: number, lengthBytes: number, time = this.#time): void {
    this.#eachTarget(hostOffset, lengthBytes, (cluster, target, start, end) => {
      this.#replace(target.parts, start, end, (part) => (part.time > time ? part : undefined));
      if (target.parts.length > 0) return;
      this.#targets.delete(cluster);
      for (const source of target.pins) this.#unpin(source, cluster);
    });
  }

  /**
   * A descriptor of a recovered log revokes or writes the range: nothing is brought there any more.
   * @throws BAD_FIELD where it would cut a sector of a part [JRN-COPY-007]; OVERLAP where bytes are written that are
   *   still to be copied from there [JRN-COPY-004]
   */
  cancel(hostOffset: number, lengthBytes: number, kind: 'revoke' | 'write', at: number): void {
    if (kind === 'write') this.#refuseChange(hostOffset, lengthBytes, at);
    this.#eachTarget(hostOffset, lengthBytes, (_, { parts }, start, end) => {
      for (let i = firstBehind(parts, start); i < parts.length && parts[i]!.start < end; i++) {
        const { start: from, end: to } = parts[i]!;
        refuseUneven(Math.max(from, start), Math.min(to, end), at, hostOffset);
      }
    });
    this.end(hostOffset, lengthBytes);
  }

  #replace(parts: Part[], start: number, end: number, by: (part: Part) => Part | undefined): void {
    const before = parts.length;
    replace(parts, start, end, by);
    this.#liveParts += parts.length - before;
  }

  /** The targets that a range of any length touches, with its part in their clusters. */
  #eachTarget(
    hostOffset: number,
    lengthBytes: number,
    visit: (cluster: number, target: Target, start: number, end: number) => void,
  ): void {
    if (this.#targets.size === 0 || lengthBytes === 0) return;
    const rangeEnd = hostOffset + lengthBytes;
    const first = Math.floor(hostOffset / this.#clusterBytes);
    const last = Math.floor((rangeEnd - 1) / this.#clusterBytes);
    const visitOne = (cluster: number): void => {
      const target = this.#targets.get(cluster);
      if (target === undefined) return;
      const base = cluster * this.#clusterBytes;
      const start = Math.max(0, hostOffset - base);
      visit(cluster, target, start, Math.min(this.#clusterBytes, rangeEnd - base));
    };
    // By the range or by what is here, whichever is shorter.
    if (last - first < this.#targets.size) {
      for (let cluster = first; cluster <= last; cluster++) visitOne(cluster);
      return;
    }
    for (const cluster of [...this.#targets.keys()]) {
      if (cluster >= first && cluster <= last) visitOne(cluster);
    }
  }

  #refuseChange(hostOffset: number, lengthBytes: number, at: number): void {
    if (this.#pinned.size === 0) return;
    const end = hostOffset + lengthBytes;
    for (
      let cluster = Math.floor(hostOffset / this.#clusterBytes);
      cluster * this.#clusterBytes < end;
      cluster++
    ) {
      for (const target of this.#pinned.get(cluster) ?? []) {
        for (const { source, start, end: partEnd } of this.#targets.get(target)!.parts) {
          if (source.kind !== 'copy' || source.hostOffset >= end) continue;
          if (source.hostOffset + partEnd - start <= hostOffset) continue;
          const message = 'the journal changes the source of a copy that it holds';
          const context = { hostOffset: at, value: hostOffset, clause: 'JRN-COPY-004' };
          throw new FormatError('OVERLAP', message, context);
        }
      }
    }
  }

  #refuseChain(hostOffset: number, lengthBytes: number, at: number): void {
    this.#eachTarget(hostOffset, lengthBytes, (_, { parts }, start, end) => {
      const part = parts[firstBehind(parts, start)];
      if (part === undefined || part.start >= end) return;
      const message = 'a copy in the journal has the target of another one as its source';
      const context = { hostOffset: at, value: hostOffset, clause: 'JRN-COPY-008' };
      throw new FormatError('OVERLAP', message, context);
    });
  }

  #pin(hostCluster: number, target: Target, sourceOffset: number, lengthBytes: number): void {
    const last = Math.floor((sourceOffset + lengthBytes - 1) / this.#clusterBytes);
    for (let source = Math.floor(sourceOffset / this.#clusterBytes); source <= last; source++) {
      target.pins.add(source);
      const by = this.#pinned.get(source);
      if (by !== undefined) {
        by.add(hostCluster);
        continue;
      }
      this.#pinned.set(source, new Set([hostCluster]));
      this.#pins?.pin(source);
    }
  }

  #unpin(source: number, hostCluster: number): void {
    const by = this.#pinned.get(source);
    by?.delete(hostCluster);
    if (by === undefined || by.size > 0) return;
    this.#pinned.delete(source);
    this.#pins?.unpin(source);
  }
}

/** Index of the first part that ends behind a place. */
function firstBehind(parts: readonly Part[], place: number): number {
  let low = 0;
  let high = parts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (parts[middle]!.end <= place) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Put something else, or nothing, in the place of what parts have in a range. */
function replace(parts: Part[], start: number, end: number, by: (part: Part) => Part | undefined): void {
  const first = firstBehind(parts, start);
  const instead: Part[] = [];
  let behind = first;
  for (; behind < parts.length && parts[behind]!.start < end; behind++) {
    const part = parts[behind]!;
    const from = Math.max(part.start, start);
    const to = Math.min(part.end, end);
    const inner = by(slice(part, from, to));
    if (part.start < from) instead.push(slice(part, part.start, from));
    if (inner !== undefined) instead.push(inner);
    if (to < part.end) instead.push(slice(part, to, part.end));
  }
  if (behind > first) parts.splice(first, behind - first, ...instead);
}

function slice(part: Part, start: number, end: number): Part {
  return { ...part, start, end, source: movedSource(part.source, start - part.start) };
}

/** The source of the byte that stands `by` bytes further. */
export function movedSource(source: FillSource, by: number): FillSource {
  return source.kind === 'copy'
    ? { kind: 'copy', hostOffset: source.hostOffset + by }
    : { kind: 'backing', guestOffset: source.guestOffset + by };
}

function refuseUneven(start: number, end: number, at: number, value: number): void {
  if (start % sectorBytes !== 0 || end % sectorBytes !== 0) throw uneven('cuts a sector', at, value);
}

function uneven(what: string, at: number, value: number): FormatError {
  const context = { hostOffset: at, value, clause: 'JRN-COPY-007' };
  return new FormatError('BAD_FIELD', `a copy or a fill in the journal, or what ends it, ${what}`, context);
}
