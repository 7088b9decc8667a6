import { expect, it } from 'vitest';
import { type Kind, kinds } from './kinds.ts';

it('no two kinds have the same name', () => {
  expect(new Set(kinds.map(({ name }) => name)).size).toBe(kinds.length);
});

it('every value of every property is there, and each way to log with each of them that it takes', () => {
  const has = <K extends keyof Kind>(log: Kind['log'], key: K): Set<Kind[K]> =>
    new Set(kinds.filter((kind) => kind.log === log).map((kind) => kind[key]));
  const all = (key: keyof Kind) => new Set(kinds.map((kind) => kind[key]));
  expect(all('version')).toEqual(new Set([2, 3]));
  expect(all('refcountBits')).toEqual(new Set([1, 2, 4, 8, 16, 32, 64]));
  expect(all('clusterBytes')).toEqual(new Set([512, 1024, 4096, 16384, 65536, 2 ** 21]));
  expect(all('backing')).toEqual(
    new Set(['none', 'raw-shorter', 'raw-longer', 'qcow2-shorter', 'qcow2-longer']),
  );
  for (const log of ['ordered', 'lazy', 'journal'] as const) {
    expect(has(log, 'data')).toEqual(new Set(['inside', 'external', 'raw']));
    expect(has(log, 'encryption')).toEqual(new Set(['none', 'luks', 'aes']));
    expect(has(log, 'compression')).toEqual(new Set(['deflate', 'zstd']));
  }
  for (const log of ['ordered', 'lazy', 'journal', 'draft'] as const) {
    expect(has(log, 'extendedL2')).toEqual(new Set([false, true]));
    expect(has(log, 'backing').size).toBeGreaterThan(2);
  }
});
