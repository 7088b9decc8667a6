import { expect, it } from 'vitest';
import { minimize } from './minimize.ts';

const numbers = Array.from({ length: 100 }, (_, number) => number);

it('leaves what it takes to fail, and no more', async () => {
  const wanted = [3, 41, 97];
  const fails = async (left: readonly number[]) => wanted.every((one) => left.includes(one));
  expect(await minimize(numbers, fails, 1000)).toEqual(wanted);
});

it('asks no more often than it may', async () => {
  let asked = 0;
  const never = async () => {
    asked++;
    return false;
  };
  const kept = await minimize(numbers, never, 7);
  expect(asked).toBe(7);
  expect(kept).toEqual(numbers);
});
