/** Mutants in the code (`code-mutants.ts`): what encrypted images are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const encryptionMutants: readonly CodeMutant[] = [
  {
    name: 'unwritten-believed-to-be-zeros',
    clause: 'ENC-005',
    protection: 'a cluster that nobody has written is filled before it is mapped',
    edits: [
      {
        file: driver('data-area.ts'),
        find: `  get readsZerosUnwritten(): boolean {
    return this.#sectors === undefined;`,
        replace: `  get readsZerosUnwritten(): boolean {
    return true;`,
      },
    ],
    system: 'ordered+luks',
    workload: 'sf',
  },
  {
    name: 'copied-as-it-stands',
    clause: 'JRN-COPY-011',
    protection: 'what is copied within an encrypted image is encrypted anew, and not left to the log',
    edits: [
      {
        file: driver('later-parts.ts'),
        find: 'log.takesCopies === true && core.data.copies;',
        replace: 'log.takesCopies === true;',
      },
    ],
    system: 'journal+direct+eager+luks+twins',
    workload: 'r1.0',
  },
  {
    name: 'logged-bytes-not-decrypted',
    clause: 'JRN-COMMIT-012',
    protection: 'recovery decrypts what records hold',
    edits: [
      {
        file: driver('logged-bytes.ts'),
        find: '  cipher.decrypt(bytes, loggedSectorBase + guestOffset / cipherSectorBytes);\n',
        replace: '',
      },
    ],
    system: 'journal+luks+backing',
    workload: 'sf',
  },
  {
    name: 'brought-in-the-clear',
    clause: 'JRN-COPY-011',
    protection: 'what a fill brings is encrypted for its place',
    edits: [
      {
        file: driver('data-area.ts'),
        find: '      yield* this.#sectors.write({ ...this.#store, write }, hostOffset, guestOffset, bytes);',
        replace: `      const raw = write(hostOffset, bytes);
      if (isPromise(raw)) yield raw;`,
      },
    ],
    system: 'ordered+luks',
    workload: 'sf',
  },
];
