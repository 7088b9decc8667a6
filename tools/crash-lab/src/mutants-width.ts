/** Mutants in the code (`code-mutants.ts`): what an image is protected by whose refcounts get another width. */
import type { CodeMutant } from './code-mutants.ts';

const file = 'packages/driver/src/refcount-width.ts';

export const widthMutants: readonly CodeMutant[] = [
  {
    name: 'width-header-before-blocks',
    clause: 'RCT-006, RCB-006',
    protection: 'the new refcounts are durable before the header leads to them',
    edits: [
      {
        file,
        find: `    yield* this.#flush();
    yield* this.#switchHeader(plan);`,
        replace: '    yield* this.#switchHeader(plan);',
      },
    ],
    system: 'ordered+width+filled',
    workload: 'i',
  },
  {
    name: 'width-old-blocks-free-too-soon',
    clause: 'RCB-006',
    protection: 'the header is durable before a cluster of the old refcounts is handed out',
    edits: [
      {
        file,
        find: `    yield* this.#switchHeader(plan);
    yield* this.#flush();`,
        replace: '    yield* this.#switchHeader(plan);\n    core.log.noteDeviceWrite();',
      },
    ],
    system: 'ordered+width+filled',
    workload: 'ib',
  },
  {
    name: 'width-header-in-two-writes',
    clause: 'HDR-018, RCB-001',
    protection: 'one write of the header changes the place of the table and the width of its refcounts',
    edits: [
      {
        file,
        find: "yield* wait(device.write(fieldsAt, fields, { event: 'reftable_update' }));",
        replace:
          'yield* wait(device.write(fieldsAt, fields.subarray(0, 12)));\n    yield* wait(device.write(60, fields.subarray(12)));',
      },
    ],
    system: 'journal+width+filled',
    workload: 'i',
  },
  {
    name: 'width-not-at-rest',
    clause: 'JRN-COMMIT-014',
    protection: 'refcounts get another width at rest: no record names a place of the old ones',
    edits: [
      { file, find: '      await requests.rest();\n', replace: '' },
      { file, find: '    if (!parts.isAtRest) return false;\n', replace: '' },
    ],
    system: 'journal+width+filled',
    workload: 'wfib',
  },
];
