/**
 * Counts from the JSON report of vitest.
 *
 * A test file that could not even be loaded has no test that failed, and a skipped test has not passed:
 * both count here, so that the sum tells the truth. On a developer's machine a skip is only reported, because
 * a tool may be missing there; under CI it is a failure.
 */
import { readFileSync } from 'node:fs';

export interface TestCounts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Files that failed without any test of theirs failing. */
  readonly brokenFiles: readonly string[];
}

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly success: boolean;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string }[];
  }[];
}

export function readVitestReport(path: string, skipsFail: boolean): TestCounts {
  return countReport(JSON.parse(readFileSync(path, 'utf8')) as Report, skipsFail);
}

export function countReport(report: Report, skipsFail: boolean): TestCounts {
  const brokenFiles = report.testResults
    .filter(
      (file) => file.status === 'failed' && file.assertionResults.every((one) => one.status !== 'failed'),
    )
    .map((file) => file.name);
  const skipped = report.numPendingTests + report.numTodoTests;
  let failed = report.numFailedTests + brokenFiles.length + (skipsFail ? skipped : 0);
  // An error outside of any test (an unhandled rejection, a failed teardown) leaves its mark here alone.
  if (!report.success && failed === 0) failed = 1;
  return { passed: report.numPassedTests, failed, skipped, brokenFiles };
}
