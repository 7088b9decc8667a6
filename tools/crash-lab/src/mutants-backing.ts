/** Mutants in the code (`code-mutants.ts`): what keeps an image on the backing file that it names, and its bytes with it. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const backingMutants: readonly CodeMutant[] = [
  {
    name: 'backing-named-before-its-bytes',
    clause: 'BAK-005',
    protection: 'what the image was given is durable before the header names another backing file',
    edits: [
      {
        file: driver('image.ts'),
        find: `    do await this.quiesce();
    while (!(await run(this.#requests.operation(() => this.#requests.exclusively(rewrite)))));`,
        replace: '    await run(this.#requests.operation(() => this.#requests.exclusively(rewrite)));',
      },
      {
        file: driver('parts.ts'),
        find: `    if (!this.isAtRest) return false;
    const { header } = this.core;`,
        replace: '    const { header } = this.core;',
      },
    ],
    system: 'ordered+rebased',
    workload: 'sP',
  },
  {
    name: 'backing-named-in-one-step',
    clause: 'BAK-004, HDR-022',
    protection: 'a header that changes in more than one sector is replaced in steps',
    edits: [
      {
        file: driver('header-update.ts'),
        find: 'if (changed.length <= 1) {',
        replace: 'if (changed.length > 0) {',
      },
    ],
    system: 'journal+rebased',
    workload: 'P',
  },
  {
    name: 'backing-name-led-to-too-soon',
    clause: 'BAK-004',
    protection: 'the new extensions and the name are durable before the header leads to them',
    edits: [
      {
        file: driver('header-update.ts'),
        find: `  yield* writeRange(device, stagedContent, stagedAt, stagedContent.length);
  yield* flush(device);`,
        replace: '  yield* writeRange(device, stagedContent, stagedAt, stagedContent.length);',
      },
    ],
    system: 'journal+rebased',
    workload: 'P',
  },
  {
    name: 'backing-name-led-to-too-long',
    clause: 'BAK-004',
    protection: 'they are durable where they are to be before the header leads there',
    edits: [
      {
        file: driver('header-update.ts'),
        find: `  yield* writeRange(device, content, sectorBytes, stagedAt);
  yield* flush(device);`,
        replace: '  yield* writeRange(device, content, sectorBytes, stagedAt);',
      },
    ],
    system: 'ordered+rebased',
    workload: 'P',
  },
  {
    name: 'backing-name-not-durable',
    clause: 'BAK-004',
    protection: 'the name is durable when the change is done',
    edits: [
      {
        file: driver('header-update.ts'),
        find: `    for (const sector of changed) yield* writeSector(device, content, sector);
    yield* flush(device);`,
        replace: '    for (const sector of changed) yield* writeSector(device, content, sector);',
      },
    ],
    system: 'journal+rebased',
    workload: 'PPP',
  },
];
