/**
 * Every pair of values of the matrix, and the two tables of what there is not: that QEMU refuses what is called a
 * constraint, and that what we refuse is refused with its code. `pnpm matrix` runs the product.
 */
import { join } from 'node:path';
import { InvariantError } from '@qcow2/spec';
import { afterAll, describe, expect, it } from 'vitest';
import { runCombination } from '../../src/combination-run.ts';
import { constraints, isAllowed, refusalOf, refusals } from '../../src/constraints.ts';
import { pairsOf } from '../../src/covering-array.ts';
import { type Combination, combinations, dimensions, idOf, parseId } from '../../src/dimensions.ts';
import { pairPlan } from '../../src/plan.ts';
import { missingPrograms, start } from '../../src/programs.ts';
import { QemuSide } from '../../src/qemu-side.ts';
import { Scene } from '../../src/scene.ts';

const seed = Number(process.env.QCOW2_SEED ?? 1);
const plan = pairPlan();
const missing = missingPrograms();
if (missing.length > 0) {
  process.stderr.write(
    `\n*** SKIPPED: the matrix: missing ${missing.join(', ')} (Debian: qemu-utils, libnbd-bin) ***\n\n`,
  );
  it.runIf(process.env.CI === 'true')('needs the programs of QEMU', () => expect(missing).toEqual([]));
}

describe('the plan', () => {
  it('has every pair that is allowed, and every pair in an image that we serve where there is one', () => {
    const has = { allowed: new Set<number>(), served: new Set<number>() };
    for (const one of combinations(dimensions)) {
      if (!isAllowed(one)) continue;
      const isServed = refusalOf(one) === undefined;
      for (const pair of pairsOf(one)) {
        has.allowed.add(pair);
        if (isServed) has.served.add(pair);
      }
    }
    const served = plan.filter((one) => refusalOf(one) === undefined);
    expect(plan.every(isAllowed)).toBe(true);
    for (const [pairs, rows] of [
      [has.allowed, plan],
      [has.served, served],
    ] as const) {
      const covered = new Set(rows.flatMap(pairsOf));
      expect([...pairs].filter((pair) => !covered.has(pair))).toEqual([]);
    }
    expect(new Set(plan.map(refusalOf)).size).toBe(refusals.length + 1);
    // As many as two dimensions with most values need, and a few more.
    expect(plan.length).toBeLessThan(120);
  });

  it('gives each combination an id that brings it back', () => {
    for (const one of plan) expect(parseId(idOf(one, 7))).toEqual({ combination: one, seed: 7 });
    for (const id of ['', 'x', `${idOf(plan[0]!, 1)}.x`, idOf(plan[0]!, 1).replace('@1', '')]) {
      expect(() => parseId(id)).toThrow('not the id of a combination');
    }
  });
});

describe.runIf(missing.length === 0)('beside QEMU', () => {
  const scene = new Scene();
  afterAll(() => scene.remove());

  it.each(plan.map((one) => idOf(one, seed)))('%s', async (id) => {
    const { combination } = parseId(id);
    const { findings, refused } = await runCombination(scene, combination, seed);
    expect(findings, `pnpm matrix --only ${id}`).toEqual([]);
    expect(refused).toBe(refusalOf(combination));
  });

  it.each(constraints)('there is no such image: $name', async ({ refusedBy, excludes }) => {
    const maker = refusedBy === 'nobody' ? 'journal' : 'theirs';
    const example = exampleOf((one) => one.maker === maker && excludes(one), excludes);
    // Where it is the filling that fails, it depends on what is filled in: one of a few contents will.
    const contents = refusedBy === 'fill' ? [0, 1, 2, 3, 4, 5, 6, 7] : [0];
    let findings: readonly string[] = [];
    for (const more of contents) {
      ({ findings } = await runCombination(scene, example, seed + more));
      if (findings.length > 0) break;
    }
    const hint = `${idOf(example, seed)}: ${findings}`;
    if (refusedBy === 'nobody') expect(findings[0], hint).toMatch(/^create: UNSUPPORTED_OPERATION/);
    else {
      expect(findings[0], hint).toMatch(/^make: /);
      expect(new QemuSide(scene, example).create().status === 0, hint).toBe(refusedBy === 'fill');
    }
  });

  it('a gap: QEMU makes images of the old encryption, and we refuse to; ones that it made we fill', () => {
    const options = 'encrypt.format=aes,encrypt.key-secret=s';
    const words = [
      'create',
      '-q',
      '-f',
      'qcow2',
      '--object',
      'secret,id=s,data=x',
      '-o',
      options,
      'aes.qcow2',
      '1M',
    ];
    expect(start('qemu-img', words, scene.folder).status).toBe(0);
    const ours = start(join(import.meta.dirname, '../../../cli/qcow2'), words, scene.folder);
    expect(ours.status).toBe(1);
    expect(ours.stderr).toContain("images are read and written with 'aes', not made");
  });
});

/** The first that only this constraint excludes, and no refusal of ours; with the default cluster size where that can be. */
function exampleOf(
  fits: (one: Combination) => boolean,
  excludes: (one: Combination) => boolean,
): Combination {
  const others = constraints.filter((constraint) => constraint.excludes !== excludes);
  for (const one of combinations({ ...dimensions, cluster: ['64k', '4k'] })) {
    if (fits(one) && !others.some((other) => other.excludes(one)) && refusalOf(one) === undefined) return one;
  }
  throw new InvariantError('a constraint that others imply');
}
