import { describe, expect, test } from 'vitest';
import { runStages, type Stage, type StageResult, showSum, showTable } from './stage.ts';

const good: StageResult = { passed: 2, failed: 0, note: '', details: '' };
const bad: StageResult = { passed: 1, failed: 3, note: 'exit status 1', details: 'why' };
const stage = (name: string, result: StageResult, needs: string[] = []): Stage => ({
  name,
  needs,
  run: async () => result,
});

describe('stages', () => {
  test('all run, later ones after a failure too, and their counts add up', async () => {
    const seen: string[] = [];
    const finished = await runStages([stage('a', good), stage('b', bad), stage('c', good)], (one) =>
      seen.push(one.name),
    );
    expect(seen).toEqual(['a', 'b', 'c']);
    expect(showSum(finished)).toBe('5 passed, 3 failed');
  });

  test('one that needs a failed one fails without being run', async () => {
    const never: Stage = { name: 'b', needs: ['a'], run: () => Promise.reject(new Error('was run')) };
    const finished = await runStages([stage('a', bad), never], () => {});
    expect(finished[1]).toMatchObject({ passed: 0, failed: 1, note: 'not run: a failed' });
  });

  test('one that throws has failed, and says where', async () => {
    const broken: Stage = { name: 'a', run: () => Promise.reject(new Error('no such thing')) };
    const [finished] = await runStages([broken], () => {});
    expect(finished).toMatchObject({ passed: 0, failed: 1 });
    expect(finished?.details).toContain('no such thing');
  });

  test('the table has a row for each, and the sum of their times', () => {
    const table = showTable([
      { ...good, name: 'first', seconds: 1.04 },
      { ...bad, name: 'second one', seconds: 62 },
    ]);
    expect(table.split('\n')).toEqual([
      'ok   first          1.0 s',
      'FAIL second one    62.0 s  exit status 1',
      '     in all        63.0 s',
    ]);
  });
});
