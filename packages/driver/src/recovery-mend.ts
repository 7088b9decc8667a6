/**
 * Entries that are put right by a guess that evidence speaks for, and nothing against. After each kind the survey is made again: what does not
 * take contradictions away is dropped.
 */
import { run } from '@qcow2/block-device';
import { isSoundL2Entry, readEntryCopied, readEntryOffset, writeL1Entry } from '@qcow2/codec';
import { FormatError, Qcow2Error } from '@qcow2/spec';
import { looksLikeTable } from './entry-repair.ts';
import type { ImageParts } from './parts.ts';
import { type Attempt, badness, look } from './recovery-attempt.ts';
import type { Survey } from './recovery-survey.ts';
import { type Verdict, verdicts } from './recovery-verdicts.ts';
import type { SalvageDevice } from './salvage-device.ts';

/** Guesses that the evidence confirms: each round looks again. */
export async function mend(file: SalvageDevice, first: Attempt): Promise<Attempt> {
  let attempt = first;
  for (const improve of [mendRefcounts, mendL1, mendL2, placeBySnapshots, mendL2, placeTheOnly, mendL2]) {
    if (attempt.survey.orphanCount === 0) return attempt;
    const changes = await improve(attempt);
    if (changes === undefined) continue;
    const patches = new Map([...attempt.patches, ...changes.patches]);
    const seen = await look(file, patches, attempt.found).catch((error: unknown) => {
      if (error instanceof Qcow2Error) return undefined;
      throw error;
    });
    if (seen === undefined || badness(seen.survey) >= badness(attempt.survey)) continue;
    const slots = new Map([...attempt.slots, ...changes.slots]);
    const clusters = new Map([...attempt.clusters, ...changes.clusters]);
    attempt = { ...attempt, ...seen, patches, slots, clusters };
  }
  return attempt;
}

interface Changes {
  readonly patches: ReadonlyMap<number, Uint8Array>;
  readonly slots: ReadonlyMap<number, Verdict>;
  readonly clusters: ReadonlyMap<number, Verdict>;
}

/** The one value, a bit away, that leads to an orphan which fits. */
async function oneBitAway(
  entry: bigint,
  { parts, survey }: Attempt,
  fits: (view: DataView, offset: number) => boolean | Promise<boolean>,
): Promise<bigint | undefined> {
  const { clusterBytes } = parts.core;
  const view = new DataView(new ArrayBuffer(16));
  const found: bigint[] = [];
  for (let bit = 0n; bit < 64n; bit++) {
    const value = entry ^ (1n << bit);
    view.setBigUint64(0, value);
    const offset = readEntryOffset(view, 0);
    // What counts once has the flag that says so.
    if (!readEntryCopied(view, 0)) continue;
    if (
      offset % clusterBytes === 0 &&
      survey.counted.has(offset / clusterBytes) &&
      (await fits(view, offset))
    )
      found.push(value);
  }
  return found.length === 1 ? found[0] : undefined;
}

/** A place that two entries are a bit away from belongs to neither. */
function unclaimed(values: ReadonlyMap<number, bigint>): Map<number, Uint8Array> {
  const claims = new Map<bigint, number>();
  for (const value of values.values()) claims.set(value, (claims.get(value) ?? 0) + 1);
  const patches = new Map<number, Uint8Array>();
  for (const [at, value] of values) if (claims.get(value) === 1) patches.set(at, bytesOf(value));
  return patches;
}

/** Blocks of a table that is damaged count themselves: that says which clusters they count. */
async function mendRefcounts({ parts, survey, found }: Attempt): Promise<Changes | undefined> {
  const { core } = parts;
  if (found.withoutRefcounts) return undefined;
  const bytes = new Uint8Array(core.clusterBytes);
  const view = new DataView(bytes.buffer);
  const values = new Map<number, bigint>();
  for (const cluster of survey.orphans) {
    const index = Math.floor(cluster / core.refcountsPerBlock);
    const at = core.header.refcountTableOffset + index * 8;
    if (survey.counted.has(cluster) || index * 8 >= core.refcountTable.byteLength) continue;
    await core.readPatched(cluster * core.clusterBytes, bytes);
    if (!countsOnce(core, view, cluster % core.refcountsPerBlock)) continue;
    if (index === 0 && !countsOnce(core, view, 0)) continue;
    // Two that count the same: nobody knows which is in use.
    values.set(at, values.has(at) ? 0n : BigInt(cluster * core.clusterBytes));
  }
  const sure = [...values].filter(([, value]) => value !== 0n);
  const patches = new Map(sure.map(([at, value]) => [at, bytesOf(value)]));
  return patches.size === 0 ? undefined : { patches, slots: new Map(), clusters: new Map() };
}

function countsOnce({ refcounts }: ImageParts['core'], view: DataView, index: number): boolean {
  try {
    return refcounts.get(view, index) === 1;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

async function mendL1(attempt: Attempt): Promise<Changes | undefined> {
  const { parts, survey } = attempt;
  const { core } = parts;
  const values = new Map<number, bigint>();
  for (const slot of survey.badSlots) {
    const entry = core.l1.getBigUint64(slot * 8);
    // The table that it leads to is in use and has no other place: it is the table that is damaged.
    if (survey.orphans.has(readEntryOffset(core.l1, slot * 8) / core.clusterBytes)) continue;
    const value = await oneBitAway(entry, attempt, (_view, offset) => isTable(parts, offset));
    if (value !== undefined) values.set(core.header.l1Offset + slot * 8, value);
  }
  const patches = unclaimed(values);
  if (patches.size === 0) return undefined;
  const slots = [...patches.keys()].map((at) => [(at - core.header.l1Offset) / 8, verdicts.oneBit] as const);
  return { patches, slots: new Map(slots), clusters: new Map() };
}

async function isTable({ core }: ImageParts, offset: number): Promise<boolean> {
  const bytes = new Uint8Array(core.clusterBytes);
  await core.readPatched(offset, bytes);
  return bytes.some((byte) => byte !== 0) && looksLikeTable(new DataView(bytes.buffer), core);
}

async function mendL2(attempt: Attempt): Promise<Changes | undefined> {
  const { core } = attempt.parts;
  const { l1, l2Entries, l2EntryBytes, clusterBytes, l2Format } = core;
  const values = new Map<number, bigint>();
  const clusterOf = new Map<number, number>();
  const bytes = new Uint8Array(clusterBytes);
  const view = new DataView(bytes.buffer);
  for (let slot = 0; slot < l1.byteLength / 8; slot++) {
    const table = readEntryOffset(l1, slot * 8);
    const isThere =
      table !== 0 && core.isInside(table, clusterBytes) && !attempt.survey.badSlots.includes(slot);
    if (!isThere) continue;
    await core.readPatched(table, bytes);
    for (let entry = 0; entry < l2Entries; entry++) {
      const cluster = slot * l2Entries + entry;
      if (!mayBeMended(attempt.survey, cluster)) continue;
      const at = entry * l2EntryBytes;
      const rest = l2EntryBytes === 16 ? view.getBigUint64(at + 8) : 0n;
      const isSound = (mended: DataView): boolean => {
        mended.setBigUint64(8, rest);
        return (mended.getUint32(0) & 0x4000_0000) === 0 && isSoundL2Entry(mended, 0, l2Format);
      };
      const value = await oneBitAway(view.getBigUint64(at), attempt, isSound);
      if (value === undefined) continue;
      values.set(table + at, value);
      clusterOf.set(table + at, cluster);
    }
  }
  const patches = unclaimed(values);
  if (patches.size === 0) return undefined;
  const clusters = [...patches.keys()].map((at) => [clusterOf.get(at)!, verdicts.oneBit] as const);
  return { patches, slots: new Map(), clusters: new Map(clusters) };
}

/** Of many that lead beyond the end of the file each is right: it was cut off. */
function mayBeMended({ verdicts: map, beyondCount }: Survey, cluster: number): boolean {
  const verdict = map.get(cluster);
  if (verdict === verdicts.beyondFile) return beyondCount === 1;
  return (
    verdict === verdicts.entryDamaged || verdict === verdicts.usedTwice || verdict === verdicts.countedFree
  );
}

function bytesOf(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

/** Places of the disk that have no table that can be believed. */
function emptySlots({ parts, survey }: Attempt): number[] {
  const { l1, l2Entries, clusterBytes, header } = parts.core;
  const count = Math.min(l1.byteLength / 8, Math.ceil(header.sizeBytes / (clusterBytes * l2Entries)));
  const bad = new Set(survey.badSlots);
  const slots = Array.from({ length: count }, (_, slot) => slot);
  return slots.filter((slot) => bad.has(slot) || readEntryOffset(l1, slot * 8) === 0);
}

/** A snapshot has a table there that counts one reference more than snapshots make: the disk's. */
async function placeBySnapshots(attempt: Attempt): Promise<Changes | undefined> {
  const { core, snapshots, allocator } = attempt.parts;
  if (snapshots.length === 0 || attempt.found.withoutRefcounts) return undefined;
  const tables: DataView[] = [];
  for (const { l1Offset, l1Entries } of snapshots) {
    const bytes = new Uint8Array(l1Entries * 8);
    await core.readPatched(l1Offset, bytes);
    tables.push(new DataView(bytes.buffer));
  }
  const patches = new Map<number, Uint8Array>();
  const slots = new Map<number, Verdict>();
  for (const slot of emptySlots(attempt)) {
    const counts = new Map<number, number>();
    for (const l1 of tables) {
      const table = slot * 8 < l1.byteLength ? readEntryOffset(l1, slot * 8) : 0;
      if (table !== 0) counts.set(table, (counts.get(table) ?? 0) + 1);
    }
    const fitting: number[] = [];
    for (const [table, count] of counts) {
      const isThere = table % core.clusterBytes === 0 && core.isInside(table, core.clusterBytes);
      if (isThere && (await run(allocator.refcount(table / core.clusterBytes))) === count + 1)
        fitting.push(table);
    }
    if (fitting.length !== 1) continue;
    patches.set(core.header.l1Offset + slot * 8, l1Entry(fitting[0]!, false));
    slots.set(slot, verdicts.placedBySnapshot);
  }
  return patches.size === 0 ? undefined : { patches, slots, clusters: new Map() };
}

/** One place is empty, and one table has no place. */
async function placeTheOnly(attempt: Attempt): Promise<Changes | undefined> {
  const { parts, survey } = attempt;
  const { core } = parts;
  const [slot, ...others] = emptySlots(attempt);
  if (slot === undefined || others.length > 0) return undefined;
  const tables: number[] = [];
  for (const cluster of survey.orphans) {
    if (await leadsToOrphans(parts, cluster * core.clusterBytes, survey))
      tables.push(cluster * core.clusterBytes);
    if (tables.length > 1) return undefined;
  }
  const [table] = tables;
  if (table === undefined) return undefined;
  return {
    patches: new Map([[core.header.l1Offset + slot * 8, l1Entry(table, true)]]),
    slots: new Map([[slot, verdicts.placedAsOnly]]),
    clusters: new Map(),
  };
}

async function leadsToOrphans({ core }: ImageParts, table: number, survey: Survey): Promise<boolean> {
  const bytes = new Uint8Array(core.clusterBytes);
  await core.readPatched(table, bytes);
  const view = new DataView(bytes.buffer);
  if (!looksLikeTable(view, core)) return false;
  let leads = 0;
  for (let at = 0; at < bytes.length; at += core.l2EntryBytes) {
    const offset = readEntryOffset(view, at);
    if (
      offset !== 0 &&
      (view.getUint32(at) & 0x4000_0000) === 0 &&
      survey.orphans.has(offset / core.clusterBytes)
    )
      leads++;
  }
  return leads > 0;
}

function l1Entry(table: number, copied: boolean): Uint8Array {
  const bytes = new Uint8Array(8);
  writeL1Entry(new DataView(bytes.buffer), 0, table, copied);
  return bytes;
}
