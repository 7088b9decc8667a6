/** Writing the entries that `EntryRepair` puts right. A table that several lead to, a snapshot's too, is changed once for all. */
import { type Task, wait } from '@qcow2/block-device';
import type { EntryRepair } from './entry-repair.ts';
import type { ImageParts } from './parts.ts';
import { ChangedBytes, type RepairLog } from './repair-log.ts';

interface TableEntries {
  readonly tableOffset: number;
  readonly entryBytes: number;
  readonly name: string;
  /** Of the first one, in an L2 table. */
  readonly guestOffset: number | undefined;
}

export class EntryWriter {
  readonly #parts: ImageParts;
  readonly #log: RepairLog;

  constructor(parts: ImageParts, log: RepairLog) {
    this.#parts = parts;
    this.#log = log;
  }

  /** All tables in which the repair has seen something to change. The refcounts of what they lead to are durable. */
  *write(repair: EntryRepair): Task<void> {
    const { core } = this.#parts;
    for (const [tableOffset, lengthBytes] of repair.l1Tables) {
      const isActive = tableOffset === core.header.l1Offset;
      if (!isActive && this.#isShared(repair, tableOffset, lengthBytes)) continue;
      const view = isActive ? core.l1 : yield* this.#read(tableOffset, lengthBytes);
      const entries = { tableOffset, entryBytes: 8, name: 'an L1 entry', guestOffset: undefined };
      yield* this.#change(view, entries, (at) => repair.l1(view, at));
    }
    for (const [tableOffset, guestOffset] of repair.l2Tables) {
      if (this.#isShared(repair, tableOffset, core.clusterBytes)) continue;
      const view = yield* this.#read(tableOffset, core.clusterBytes);
      const entries = { tableOffset, entryBytes: core.l2EntryBytes, name: 'an L2 entry', guestOffset };
      yield* this.#change(view, entries, (at) => repair.l2(view, at));
    }
    core.l2Cache.clear();
    yield* this.#log.commit();
  }

  /** Something else stands there too. The active L1 table is one all the same: the header says so. */
  #isShared({ notTables }: EntryRepair, tableOffset: number, lengthBytes: number): boolean {
    const { clusterBytes } = this.#parts.core;
    for (let at = tableOffset; at < tableOffset + lengthBytes; at += clusterBytes) {
      if (notTables.has(Math.floor(at / clusterBytes))) return true;
    }
    return false;
  }

  *#change(view: DataView, entries: TableEntries, change: (at: number) => boolean): Task<void> {
    const { tableOffset, entryBytes, name, guestOffset } = entries;
    const { clusterBytes } = this.#parts.core;
    const changed = new ChangedBytes();
    for (let at = 0; at < view.byteLength; at += entryBytes) {
      const before = view.getBigUint64(at);
      if (!change(at)) continue;
      changed.note(at, 8);
      const message = `${name} was 0x${before.toString(16)} and is 0x${view.getBigUint64(at).toString(16)}`;
      this.#log.fixed('error', message, {
        hostOffset: tableOffset + at,
        guestOffset: guestOffset === undefined ? undefined : guestOffset + (at / entryBytes) * clusterBytes,
      });
    }
    yield* changed.writeTo(this.#log, 2, tableOffset, view);
  }

  *#read(hostOffset: number, lengthBytes: number): Task<DataView> {
    const bytes = new Uint8Array(lengthBytes);
    yield* wait(this.#parts.core.readPatched(hostOffset, bytes));
    return new DataView(bytes.buffer);
  }
}
