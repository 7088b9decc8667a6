/** Mutants in the code (`code-mutants.ts`): what keeps an image and its external data file together. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const dataFileMutants: readonly CodeMutant[] = [
  {
    name: 'data-file-not-flushed',
    clause: 'DAT-003',
    protection: 'a flush of the image file is one of the data file too',
    edits: [
      {
        file: driver('data-file.ts'),
        find: 'const done = this.#flushData();',
        replace: 'const done: void | Promise<void> = undefined;',
      },
    ],
    system: 'ordered+data',
    workload: 'wf',
  },
  {
    name: 'data-file-flush-forgotten',
    clause: 'DAT-003',
    protection: 'a write to the data file is noted, so that the next flush is not left out',
    edits: [
      {
        file: driver('data-area.ts'),
        find: '    if (this.isExternal) this.unflushed.set();\n',
        replace: '',
      },
    ],
    system: 'journal+direct+data',
    workload: 'wf',
  },
  {
    name: 'raw-zeros-in-the-table-only',
    clause: 'DAT-004',
    protection: 'zeros are written through to a raw data file',
    edits: [{ file: driver('image-writer.ts'), find: "if (data.isRaw) return 'through';", replace: '' }],
    system: 'ordered+raw+filled',
    workload: 'z',
  },
  {
    name: 'raw-mapping-not-awaited',
    clause: 'DAT-005',
    protection: 'a cluster of a raw data file is mapped durably before it is written to',
    edits: [
      {
        file: driver('image-requests.ts'),
        find: '    yield* this.commit();\n    this.#mapsDurable',
        replace: '    this.#mapsDurable',
      },
    ],
    system: 'ordered+raw+unmapped',
    workload: 'w',
  },
  {
    name: 'data-file-cut-before-the-size',
    clause: 'DAT-009',
    protection: 'a data file loses what is behind the new end of its disk when the new size is durable',
    edits: [
      {
        file: driver('shrink-operation.ts'),
        find: '  const old = yield* whileGuestsWait(parts, () => cut(parts, sizeBytes));',
        replace:
          '  if (parts.core.data.isExternal) yield* parts.core.data.cutBehind(sizeBytes);\n' +
          '  const old = yield* whileGuestsWait(parts, () => cut(parts, sizeBytes));',
      },
    ],
    system: 'ordered+data+sizes',
    workload: 'tfy',
  },
  {
    name: 'copies-beside-a-data-file',
    clause: 'JRN-COPY-010',
    protection: 'nothing of the data file is left to the log to copy or to fill',
    edits: [
      {
        file: driver('parts.ts'),
        find: 'new JournalledLog(engine, !this.core.data.isExternal)',
        replace: 'new JournalledLog(engine, true)',
      },
    ],
    system: 'journal+direct+data+backing',
    workload: 'sf',
  },
];
