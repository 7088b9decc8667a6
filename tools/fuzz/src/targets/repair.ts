/**
 * A repair of images with damaged tables, of leaks and of all. Besides what is held against every image:
 *
 * - what the guest could read before it can read, and it is the same (REP-001), but where it read a table that the repair has
 *   put right: a guest cluster in the clusters of a table, led to by the same entry as before;
 * - what is written anew stands behind the end of the file;
 * - another check says what the repair says is left, no more and no less;
 * - a repair that has left nothing has nothing to do when it is asked again;
 * - the image is no harder to open than it was.
 */
import { decodeHeader, l2EntryBytes, l2FormatOf, readEntryOffset } from '@qcow2/codec';
import { checkImage, openImage, type RepairMode, repairImage } from '@qcow2/driver';
import type { Verdict } from '../target.ts';
import { openGrowthBytes } from './image.ts';
import { TablesTarget } from './tables.ts';

/** What a repair may be answered with, besides errors of format: a journal that needs what is not there, a file that can not grow. */
const repairCodes = ['NO_SECRET', 'NO_SPACE', 'NO_POLICY'] as const;
/** The part of the disk that is looked at. */
const seenBytes = 256 * 1024;
const pieceBytes = 512;

/** Changes of tables in place, by a journal as well: there is nothing else in those of the bases. */
const tableEvents: ReadonlySet<string> = new Set([
  'refblock_update',
  'reftable_update',
  'l2_update',
  'journal_write_back',
]);

interface TableWrite {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Where the bytes of the active disk stand, by the entries in a file at rest, whatever else these say. */
class Entries {
  readonly #view: DataView;
  readonly #header: ReturnType<typeof decodeHeader>;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#header = decodeHeader(bytes);
  }

  /** Undefined where no entry says where. */
  of(guestOffset: number): { readonly hostOffset: number } | undefined {
    const { clusterBits, l1Offset } = this.#header;
    const clusterBytes = 2 ** clusterBits;
    const entryBytes = l2EntryBytes(l2FormatOf(this.#header));
    const guestCluster = Math.floor(guestOffset / clusterBytes);
    const perTable = clusterBytes / entryBytes;
    const table = this.#entry(l1Offset + Math.floor(guestCluster / perTable) * 8);
    const cluster =
      table === undefined ? undefined : this.#entry(table + (guestCluster % perTable) * entryBytes);
    return cluster === undefined ? undefined : { hostOffset: cluster + (guestOffset % clusterBytes) };
  }

  #entry(at: number): number | undefined {
    if (at + 8 > this.#view.byteLength) return undefined;
    const offset = readEntryOffset(this.#view, at);
    return offset === 0 ? undefined : offset;
  }
}

export class RepairTarget extends TablesTarget {
  override readonly name = 'repair';

  override async run(variant: number, verdict: Verdict): Promise<void> {
    const { device } = this.probe;
    const mode: RepairMode = variant % 3 === 0 ? 'leaks' : 'all';
    device.rearm();
    device.readOnly = true;
    const seen = await this.#look(verdict);
    const found = await verdict.attemptAsync('check', () => checkImage(device));
    this.#endStage('before', verdict);
    const fileBytes = device.sizeBytes;
    const entries = seen === undefined ? undefined : new Entries(device.bytes.slice());
    const updated: TableWrite[] = [];
    device.guard = (offset, lengthBytes, event) => {
      if (offset + lengthBytes > fileBytes + openGrowthBytes) return 'far behind the end of the file';
      if (event === 'refblock_alloc_write' && offset < fileBytes) return 'a new block within the file';
      if (event !== undefined && tableEvents.has(event)) updated.push({ offset, lengthBytes });
      return undefined;
    };
    const report = await this.#repair(mode, verdict);
    this.#endStage('repair', verdict);
    device.readOnly = true;
    await this.#compare(seen, verdict, (at) => {
      const [before, now] = [entries?.of(at), new Entries(device.bytes).of(at)];
      if (before === undefined || before.hostOffset !== now?.hostOffset) return false;
      const { hostOffset } = before;
      return updated.some(
        (one) => hostOffset < one.offset + one.lengthBytes && one.offset < hostOffset + pieceBytes,
      );
    });
    const again = await verdict.attemptAsync('check', () => checkImage(device));
    this.#endStage('after', verdict);
    if (found !== undefined && again === undefined)
      verdict.finding('what could be checked can not be any more');
    if (report === undefined || again === undefined) return;
    for (const kind of ['corruptions', 'leaks', 'checkErrors'] as const) {
      verdict.noteCount(kind, report.left[kind]);
      if (report.left[kind] === again[kind]) continue;
      verdict.finding(`${report.left[kind]} ${kind} are said to be left, and there are ${again[kind]}`);
    }
    if (report.left.corruptions + report.left.leaks > 0) return;
    const second = await this.#repair(mode, verdict);
    this.#endStage('second repair', verdict);
    if (second === undefined || second.corruptionsFixed + second.leaksFixed === 0) return;
    verdict.finding(
      `nothing was left, and a second repair finds ${second.corruptionsFixed} + ${second.leaksFixed}`,
    );
  }

  async #repair(mode: RepairMode, verdict: Verdict) {
    const { backing, random } = this.probe.options(false);
    return await verdict.attemptAsync(
      `repair ${mode}`,
      () =>
        repairImage(this.probe.device, {
          repair: mode,
          ...(backing && { backing }),
          ...(random && { random }),
        }),
      { codes: repairCodes },
    );
  }

  /** What a guest can read of the disk, by its offset; undefined where nobody can open it. */
  async #look(verdict: Verdict): Promise<ReadonlyMap<number, Uint8Array> | undefined> {
    const { device } = this.probe;
    const image = await verdict.attemptAsync('open', () => openImage(device, this.probe.options(true)));
    if (image === undefined) return undefined;
    const seen = new Map<number, Uint8Array>();
    for (let at = 0; at + pieceBytes <= Math.min(image.sizeBytes, seenBytes); at += pieceBytes) {
      const bytes = new Uint8Array(pieceBytes);
      const isRead = await verdict.attemptAsync('read', async () => {
        await image.read(at, bytes);
        return true;
      });
      if (isRead === true) seen.set(at, bytes);
    }
    image.abandon();
    return seen;
  }

  /** @param isTable whether a place of the disk is a table that has been put right */
  async #compare(
    before: ReadonlyMap<number, Uint8Array> | undefined,
    verdict: Verdict,
    isTable: (at: number) => boolean,
  ): Promise<void> {
    if (before === undefined) return;
    const after = await this.#look(verdict);
    if (after === undefined) {
      verdict.finding('what could be opened can not be any more');
      return;
    }
    for (const [at, bytes] of before) {
      const now = after.get(at);
      if (now !== undefined && (Buffer.compare(now, bytes) === 0 || isTable(at))) continue;
      verdict.finding(
        `what the guest saw at ${at} ${now === undefined ? 'can not be read any more' : 'is another'}`,
      );
      return;
    }
  }

  /** Each stage has a budget of its own. */
  #endStage(stage: string, verdict: Verdict): void {
    const { device } = this.probe;
    if (device.overBudget) verdict.finding(`the budget of device operations is used up (${stage})`);
    if (device.violation !== undefined) verdict.finding(`${stage}: ${device.violation}`);
    device.rearm();
  }
}
