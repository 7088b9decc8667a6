/** Damage to the durable log (G6): refused by name, or recovered as after a crash that nobody can tell from it; never less. */
import { describe, expect, it } from 'vitest';
import { DamageExplorer, damageLogs } from '../src/damage.ts';
import { labSystem } from '../src/systems.ts';
import { namedWorkload } from '../src/workload.ts';

describe('a log that is damaged', () => {
  it('[JRN-RECOV-001, JRN-RECOV-002, JRN-RECOV-006, JRN-RECOV-007] is refused wherever something durable knows of what is gone', async () => {
    const names = ['journal+filled', 'journal-512+direct+eager', 'engine', 'engine+eager'];
    const systems = names.map((name) => labSystem(name).make());
    const { tally, failures } = await damageLogs(systems, 1, 6);
    expect(failures).toEqual([]);
    expect(tally.workloads).toBe(24);
    expect(tally.refused).toBeGreaterThan(3000);
    expect(tally.recovered).toBeGreaterThan(300);
    expect(tally.refused + tally.recovered).toBe(tally.images);
  });

  it('is not asked about in an image that is clean, or has no journal', async () => {
    const clean = new DamageExplorer(labSystem('journal').make());
    await clean.explore(namedWorkload(labSystem('journal').make(), ''));
    expect(clean.tally.images).toBe(0);
    const ordered = new DamageExplorer(labSystem('ordered').make());
    await ordered.explore(namedWorkload(labSystem('ordered').make(), 'sf'));
    expect(ordered.tally.images).toBe(0);
  });
});
