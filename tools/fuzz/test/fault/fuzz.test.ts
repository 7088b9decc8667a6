/**
 * The short run: every input of the corpus, and as many new ones as take about a minute on a quiet machine. By count,
 * so that the run is the same everywhere; what is found is printed with the id that brings it back
 * (`pnpm fuzz --input ID`).
 */
import { describe, expect, it } from 'vitest';
import { loadCorpus } from '../../src/corpus.ts';
import { Fuzzer } from '../../src/fuzzer.ts';
import { parseInput } from '../../src/input.ts';
import { makeTarget, targetNames } from '../../src/targets.ts';

const counts: Readonly<Record<string, number>> = {
  log: 30_000,
  header: 60_000,
  draft: 20_000,
  journal: 8000,
  'draft-image': 6000,
  tables: 8000,
  repair: 300,
  luks: 10_000,
  compressed: 1500,
};

async function prepared(name: string, seed: number): Promise<Fuzzer> {
  const target = makeTarget(name);
  await target.prepare();
  return new Fuzzer(target, { seed, corpus: loadCorpus(name) });
}

describe.each(targetNames)('%s', (name) => {
  it('[JRN-REC-020] every input of the corpus gets an answer', async () => {
    const corpus = loadCorpus(name);
    expect(corpus.length).toBeGreaterThan(0);
    const fuzzer = await prepared(name, 1);
    await fuzzer.replay(corpus);
    expect(fuzzer.findings).toEqual([]);
    // The corpus is worth keeping only while its inputs are told apart.
    expect(fuzzer.answers).toBeGreaterThan(corpus.length / 2);
  });

  it('new inputs get an answer, and the same one again', async () => {
    const fuzzer = await prepared(name, 1);
    await fuzzer.run(counts[name] ?? 1000);
    expect(fuzzer.findings).toEqual([]);
    const again = fuzzer.corpus.slice(-20);
    const first = await (await prepared(name, 2)).replay(again);
    expect(await (await prepared(name, 3)).replay(again)).toEqual(first);
  });
});

describe('an id', () => {
  it.each(['log', 'log/short', 'log/short:xyz', 'log/short:1..2', 'log/short:123456789', ''])(
    'that is none is refused: %s',
    (text) => {
      expect(() => parseInput(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    },
  );
});
