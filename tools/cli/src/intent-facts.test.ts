import { encodeDetachedTableIntent, encodeGrowIntent } from '@qcow2/codec/journal/v1';
import { journalIntentKinds } from '@qcow2/spec';
import { expect, it } from 'vitest';
import { intentFacts } from './intent-facts.ts';

const grow = { sizeBeforeBytes: 512, sizeAfterBytes: 4096, reachBytes: 1024 };
const table = { l1Offset: 0x30000, l1Entries: 2, countedFrom: 3, countedTo: 16000 };

it('says what an operation under way is, by its kind', () => {
  const { grow: growKind, detachedTable } = journalIntentKinds;
  expect(intentFacts({ intentKind: growKind, body: encodeGrowIntent(grow) })).toEqual({
    kind: 'grow',
    ...grow,
  });
  const body = encodeDetachedTableIntent(table, { clusterBytes: 65536, l2Entries: 8192 });
  expect(intentFacts({ intentKind: detachedTable, body })).toEqual({ kind: 'detachedTable', ...table });
});

it('says nothing of a kind that is not known, or a body that is damaged', () => {
  expect(intentFacts({ intentKind: 99, body: new Uint8Array(24) })).toBeUndefined();
  expect(intentFacts({ intentKind: journalIntentKinds.grow, body: new Uint8Array(3) })).toBeUndefined();
  expect(
    intentFacts({ intentKind: journalIntentKinds.detachedTable, body: new Uint8Array(32) }),
  ).toBeUndefined();
});
