import { describe, expect, test } from 'vitest';
import { countReport } from './vitest-report.ts';

const clean = {
  numPassedTests: 3,
  numFailedTests: 0,
  numPendingTests: 0,
  numTodoTests: 0,
  success: true,
  testResults: [{ name: 'a.test.ts', status: 'passed', assertionResults: [{ status: 'passed' }] }],
};

describe('counts from the report', () => {
  test('of a clean run', () => {
    expect(countReport(clean, true)).toEqual({ passed: 3, failed: 0, skipped: 0, brokenFiles: [] });
  });

  test('take a file that could not be loaded as a failure, and one with a failed test as that test', () => {
    const report = {
      ...clean,
      success: false,
      numFailedTests: 1,
      testResults: [
        { name: 'broken.test.ts', status: 'failed', assertionResults: [] },
        { name: 'bad.test.ts', status: 'failed', assertionResults: [{ status: 'failed' }] },
      ],
    };
    expect(countReport(report, false)).toMatchObject({ failed: 2, brokenFiles: ['broken.test.ts'] });
  });

  test('take a skip as a failure where asked to, and report it otherwise', () => {
    const report = { ...clean, numPendingTests: 2, numTodoTests: 1 };
    expect(countReport(report, false)).toMatchObject({ failed: 0, skipped: 3 });
    expect(countReport(report, true)).toMatchObject({ failed: 3, skipped: 3 });
  });

  test('count an error outside of all tests', () => {
    expect(countReport({ ...clean, success: false }, false)).toMatchObject({ passed: 3, failed: 1 });
  });
});
