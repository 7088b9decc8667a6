import { describe, expect, it } from 'vitest';
import { hashText, SeededRandom } from './seeded-random.ts';

describe('SeededRandom', () => {
  it('gives the numbers that ids of before rely on', () => {
    const random = new SeededRandom(7, 12);
    expect([random.next(), random.next()]).toEqual([3676751029, 4283547897]);
    expect(random.below(1000)).toBe(28);
    expect(random.belowBig(2n ** 80n)).toBe(853702201224261682943115n);
    expect(hashText('journal/wf')).toBe(459272000);
  });

  it('draws from lists, and by weight', () => {
    const random = new SeededRandom(1);
    const drawn = Array.from(
      { length: 4000 },
      () => random.weighted([{ weight: 3 }, { weight: 0 }, { weight: 1 }]).weight,
    );
    expect(new Set(drawn)).toEqual(new Set([3, 1]));
    expect(drawn.filter((weight) => weight === 3).length / drawn.length).toBeCloseTo(0.75, 1);
    expect(['a', 'b']).toContain(random.pick(['a', 'b']));
  });

  it('stays within its limits', () => {
    const random = new SeededRandom(2);
    for (let i = 0; i < 1000; i++) {
      expect(random.below(3)).toBeLessThan(3);
      expect(random.belowBig(5n)).toBeLessThan(5n);
    }
  });
});
