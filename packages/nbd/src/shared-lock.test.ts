import { expect, test } from 'vitest';
import { SharedLock } from './shared-lock.ts';

test('who shares goes together, who is alone goes alone, and in the order of coming', async () => {
  const lock = new SharedLock();
  const story: string[] = [];
  const gates = new Map<string, () => void>();
  const act = (name: string) => async (): Promise<void> => {
    story.push(`+${name}`);
    await new Promise<void>((resolve) => gates.set(name, resolve));
    story.push(`-${name}`);
  };
  const turns = async (): Promise<void> => {
    for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  };
  const all = [
    lock.shared(act('a')),
    lock.shared(act('b')),
    lock.alone(act('c')),
    lock.shared(act('d')),
    lock.alone(act('e')),
  ];
  await turns();
  expect(story).toEqual(['+a', '+b']);
  for (const name of ['b', 'a', 'c', 'd', 'e']) {
    gates.get(name)?.();
    await turns();
  }
  await Promise.all(all);
  expect(story).toEqual(['+a', '+b', '-b', '-a', '+c', '-c', '+d', '-d', '+e', '-e']);
});

test('a failure lets the next one in', async () => {
  const lock = new SharedLock();
  await expect(lock.alone(() => Promise.reject(new RangeError('x')))).rejects.toThrow('x');
  expect(await lock.alone(() => Promise.resolve(7))).toBe(7);
});
