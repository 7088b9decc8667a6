/** Mutants in the code (`code-mutants.ts`): what keeps bitmaps true through crashes, and changes of them whole. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const bitmapMutants: readonly CodeMutant[] = [
  {
    name: 'bitmap-in-use-not-durable',
    clause: 'BMP-004',
    protection: 'without a journal, the mark that a bitmap is in use is durable before the first write',
    edits: [
      {
        file: driver('bitmaps.ts'),
        find: 'if (marked) yield* core.log.commit();',
        replace: '',
      },
    ],
    system: 'ordered+bitmaps',
    workload: 's',
  },
  {
    name: 'bitmap-never-in-use',
    clause: 'BMP-004, BMD-005',
    protection: 'without a journal, a bitmap that is newer in memory is marked as in use',
    edits: [
      {
        file: driver('bitmaps.ts'),
        find: 'for (const slot of slots) yield* this.setFlags(slot, slot.entry.flags | bitmapFlags.inUse);',
        replace: '',
      },
    ],
    system: 'lazy+bitmaps',
    workload: 's',
  },
  {
    name: 'bitmap-passed-by-what-is-gathered',
    clause: 'BMP-004',
    protection: 'a small write that waits in memory is noted in every bitmap, as others are',
    edits: [
      {
        file: driver('image-requests.ts'),
        find: 'if (parts.core.data.isRaw || !parts.bitmaps.isEmpty || parts.mustCommit) return false;',
        replace: 'if (parts.core.data.isRaw || parts.mustCommit) return false;',
      },
    ],
    system: 'journal+bitmaps',
    workload: 'dAs',
  },
  {
    name: 'bitmap-dirty-after-the-data',
    clause: 'BMP-004',
    protection: 'with a journal, the bits of a place are durable before its bytes are written',
    edits: [
      {
        file: driver('bitmaps.ts'),
        find: `    if (taken.length === 0) return;
    yield* parts.core.log.commit();`,
        replace: '    if (taken.length === 0) return;',
      },
    ],
    system: 'journal+direct+bitmaps',
    workload: 's',
  },
  {
    name: 'bitmap-mark-gone-with-its-bits',
    clause: 'BMP-004',
    protection: 'the bits are durable before the mark is taken away',
    edits: [
      {
        file: driver('bitmaps.ts'),
        find: `      yield* parts.core.log.commit();
      if (yield* section(parts, () => this.#clearMarks())) return;`,
        replace: '      if (yield* section(parts, () => this.#clearMarks())) return;',
      },
    ],
    system: 'ordered+bitmaps',
    workload: 'sq',
  },
  {
    name: 'bitmap-turned-off-without-its-bits',
    clause: 'BMP-005',
    protection: 'what a bitmap says is stored before it is turned off',
    edits: [
      {
        file: driver('bitmap-operations.ts'),
        find: 'if (!enabled && (slot.live?.pages.size ?? 0) > 0) return false;',
        replace: '',
      },
      {
        file: driver('bitmap-operations.ts'),
        find: 'do if (!enabled) yield* bitmaps.store();',
        replace: 'do yield* nothing();',
      },
    ],
    system: 'ordered+bitmaps',
    workload: 'sE',
  },
  {
    name: 'bitmap-directory-before-it-stands',
    clause: 'BMP-005, JRN-COMMIT-003',
    protection: 'with a journal, a new directory and table are durable before the record that leads to them',
    edits: [
      {
        file: driver('bitmap-operations.ts'),
        find: `      yield* logExtension(parts, update, area, entries.length);
      yield* update.submit({ required: true, afterData: true });`,
        replace: `      yield* logExtension(parts, update, area, entries.length);
      yield* update.submit({ required: true, afterData: false });`,
      },
    ],
    system: 'journal+bitmaps',
    workload: 'sA',
  },
  {
    name: 'bitmap-table-before-its-bits',
    clause: 'BMP-005, JRN-COMMIT-003',
    protection: 'with a journal, a new table and its bits are durable before the record that leads to them',
    edits: [
      {
        file: driver('bitmap-operations.ts'),
        find: `    countDown(parts, update, exchange);
    yield* update.submit({ required: true, afterData: true });
    slot.entry.tableOffset = tableOffset;`,
        replace: `    countDown(parts, update, exchange);
    yield* update.submit({ required: true, afterData: false });
    slot.entry.tableOffset = tableOffset;`,
      },
    ],
    system: 'journal+bitmaps',
    workload: 'sM',
  },
  {
    name: 'bitmap-freed-before-the-directory',
    clause: 'BMP-005',
    protection: 'without a journal, what a bitmap had is free only when no directory leads to it, durably',
    edits: [
      {
        file: driver('bitmap-operations.ts'),
        find: `      countUp(update, exchange);
      if (!update.isEmpty) yield* update.submit({ required: true, afterData: true });`,
        replace: `      countUp(update, exchange);
      yield* dropOld(parts, change, exchange);
      countDown(parts, update, exchange);
      exchange.dropped.length = 0;
      if (!update.isEmpty) yield* update.submit({ required: true, afterData: true });`,
      },
      {
        file: driver('bitmap-operations.ts'),
        find: `    yield* dropOld(parts, change, exchange);
    const update = parts.clusterWriter.update();
    countDown(parts, update, exchange);`,
        replace: '    const update = parts.clusterWriter.update();',
      },
    ],
    system: 'ordered+bitmaps',
    workload: 'R',
  },
  {
    name: 'bitmap-cluster-not-revoked',
    clause: 'JRN-COMMIT-008',
    protection: 'bits that were logged are revoked when their cluster is freed',
    edits: [
      {
        file: driver('bitmap-operations.ts'),
        find: 'update.revoke(cluster * core.clusterBytes, core.clusterBytes);',
        replace: '',
      },
    ],
    system: 'journal+direct+bitmaps',
    workload: 'sRfxfof',
  },
  {
    name: 'bitmap-size-without-a-mark',
    clause: 'BMP-007, BMD-005',
    protection: 'bitmaps are marked as in use before the disk gets another size',
    edits: [
      {
        file: driver('bitmap-resize.ts'),
        find: 'yield* mark(parts, true);',
        replace: '',
      },
    ],
    system: 'journal+bitmaps+sizes',
    workload: 'ty',
  },
  {
    name: 'bitmap-size-before-its-mark',
    clause: 'BMP-007',
    protection: 'without a journal, the mark is durable before the size changes',
    edits: [
      {
        file: driver('bitmap-resize.ts'),
        find: 'yield* mark(parts, true);',
        replace: `yield* section(parts, function* () {
      for (const slot of bitmaps.slots) yield* bitmaps.setFlags(slot, slot.entry.flags | bitmapFlags.inUse);
    });`,
      },
    ],
    system: 'ordered+bitmaps+far',
    workload: 'yg',
  },
  {
    name: 'bitmap-size-without-its-bits',
    clause: 'BMP-007',
    protection: 'what is dirty is in the file before the table is made from it',
    edits: [
      {
        file: driver('bitmap-resize.ts'),
        find: 'yield* bitmaps.store();',
        replace: '',
      },
    ],
    system: 'ordered+bitmaps+sizes',
    workload: 'sg',
  },
  {
    name: 'bitmap-mark-gone-with-its-table',
    clause: 'BMP-007',
    protection: 'without a journal, the table for the new size is durable before the mark is taken away',
    edits: [
      {
        file: driver('bitmap-resize.ts'),
        find: `      yield* bitmaps.adopt(entries, bitmaps.directory);
    });
    yield* core.log.commit();`,
        replace: `      yield* bitmaps.adopt(entries, bitmaps.directory);
    });`,
      },
    ],
    system: 'ordered+bitmaps+sizes',
    workload: 'ty',
  },
  {
    name: 'bitmap-resized-before-its-bits',
    clause: 'BMP-007, JRN-COMMIT-003',
    protection:
      'with a journal, the table for the new size and its bits are durable before the record that leads to them',
    edits: [
      {
        file: driver('bitmap-resize.ts'),
        find: 'yield* update.submit({ required: true, afterData: true });',
        replace: 'yield* update.submit({ required: true, afterData: false });',
      },
    ],
    system: 'journal+bitmaps+sizes',
    workload: 'ty',
  },
];
