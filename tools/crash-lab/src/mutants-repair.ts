/** Mutants in the code (`code-mutants.ts`): what keeps a repair that crashes from making an image worse. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const repairMutants: readonly CodeMutant[] = [
  {
    name: 'repair-mark-taken-away-first',
    clause: 'REP-007, FEA-002',
    protection: 'an image is marked as corrupt until nothing is, durably',
    edits: [
      {
        file: driver('repair.ts'),
        find: '  const log = new RepairLog(parts, options.maxFindings ?? 1000);',
        replace: `  const log = new RepairLog(parts, options.maxFindings ?? 1000);
  if (isMarked(parts)) yield* takeMarksAway(parts);`,
      },
    ],
    system: 'ordered+repair',
    workload: 'KZ',
  },
  {
    name: 'repair-entries-with-refcounts',
    clause: 'REP-002',
    protection: 'refcounts are raised, durably, before an entry that is repaired leads somewhere',
    edits: [
      {
        file: driver('refcount-raise.ts'),
        find: 'yield* changed.writeTo(this.#log, 0, hostOffset, view);',
        replace: 'yield* changed.writeTo(this.#log, 2, hostOffset, view);',
      },
      {
        file: driver('refcount-raise.ts'),
        find: `    yield* this.#log.commit();
    yield* this.#writeTable(`,
        replace: '    yield* this.#writeTable(',
      },
    ],
    system: 'ordered+repair',
    workload: 'ZB',
  },
  {
    name: 'repair-frees-with-entries',
    clause: 'REP-002',
    protection: 'refcounts are lowered only when what led there is durably gone',
    edits: [
      {
        file: driver('entry-writer.ts'),
        find: `    core.l2Cache.clear();
    yield* this.#log.commit();`,
        replace: `    core.l2Cache.clear();
    yield* this.#log.commit(false);`,
      },
      {
        file: driver('repair-log.ts'),
        find: `  *commit(): Task<void> {
    yield* this.#submit();
    yield* this.#parts.core.log.commit();`,
        replace: `  *commit(isDurable = true): Task<void> {
    yield* this.#submit();
    if (isDurable) yield* this.#parts.core.log.commit();`,
      },
    ],
    system: 'ordered+repair',
    workload: 'N',
  },
  {
    name: 'repair-steps-in-one-commit',
    clause: 'REP-002',
    protection: 'each step of a repair is durable before the next',
    edits: [
      {
        file: driver('repair-log.ts'),
        find: `    yield* this.#submit();
    yield* this.#parts.core.log.commit();`,
        replace: '    yield* this.#submit();',
      },
    ],
    system: 'ordered+repair',
    workload: 'N',
  },
  {
    name: 'repair-allocates-what-counts-as-free',
    clause: 'REP-008',
    protection: 'until refcounts are repaired nothing is allocated below the end of the file',
    edits: [
      {
        file: driver('open.ts'),
        find: `  if (options.forRepair === true) yield* allocateBehindFile(parts);
  if (options.forRepair === true && !dirty)`,
        replace: '  if (options.forRepair === true && !dirty)',
      },
    ],
    system: 'journal+repair',
    workload: 'xZ',
  },
];
