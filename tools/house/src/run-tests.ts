/**
 * `pnpm test`: everything that a change must pass, and one line at the end that says how much did.
 *
 * Cheap stages come first. A failure does not stop the run: whoever reads it wants all of the bad news. The
 * exit status is 1 where anything failed. `--checks-only` leaves the test suites out.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bundleCommand } from './bundle-command.ts';
import { runCommand } from './command.ts';
import { showFinding } from './finding.ts';
import { runReleaseDryRun } from './release-dry-run.ts';
import { runRules } from './rules.ts';
import { type FinishedStage, runStages, type Stage, type StageResult, showSum, showTable } from './stage.ts';
import { readVitestReport } from './vitest-report.ts';

const root = join(import.meta.dirname, '../../..');
const underCi = process.env.CI === 'true';
const suitesLimitMs = 45 * 60_000;

/** A program of the root's dependencies; its exit status decides. */
function program(name: string, bin: string, args: readonly string[], needs: readonly string[] = []): Stage {
  return {
    name,
    needs,
    run: async () => {
      const env = { TURBO_TELEMETRY_DISABLED: '1', NO_COLOR: '1' };
      const result = await runCommand(join(root, 'node_modules/.bin', bin), args, { cwd: root, env });
      const good = result.status === 0;
      const note = good ? '' : (result.trouble ?? `exit status ${result.status}`);
      return { passed: good ? 1 : 0, failed: good ? 0 : 1, note, details: result.output };
    },
  };
}

const bundleStage: Stage = {
  name: 'bundle of the command',
  needs: ['build'],
  run: async () => ({
    passed: 1,
    failed: 0,
    note: `${await bundleCommand(root)} files`,
    details: '',
  }),
};

const rulesStage: Stage = {
  name: 'rules',
  run: async () => {
    const outcomes = runRules(root);
    const broken = outcomes.filter((one) => one.findings.some((found) => found.severity === 'error'));
    const findings = outcomes.flatMap((one) => one.findings);
    const warnings = findings.filter((found) => found.severity === 'warning').length;
    return {
      passed: outcomes.length - broken.length,
      failed: broken.length,
      note: `${outcomes.length} rules${warnings === 0 ? '' : `, ${warnings} warnings`}`,
      details: findings.map((found) => `${found.severity}: ${showFinding(found)}`).join('\n'),
    };
  },
};

const suitesStage: Stage = {
  name: 'test suites',
  run: async () => {
    const folder = mkdtempSync(join(tmpdir(), 'qcow2-vitest-'));
    try {
      const reportPath = join(folder, 'report.json');
      const args = ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${reportPath}`];
      const result = await runCommand(join(root, 'node_modules/.bin/vitest'), args, {
        cwd: root,
        env: process.stdout.isTTY ? { FORCE_COLOR: '1' } : { NO_COLOR: '1' },
        live: true,
        limitMs: suitesLimitMs,
      });
      if (result.trouble !== undefined || !existsSync(reportPath)) {
        return { passed: 0, failed: 1, note: result.trouble ?? 'vitest left no report', details: '' };
      }
      return suiteCounts(reportPath, result.status);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

function suiteCounts(reportPath: string, status: number | undefined): StageResult {
  const counts = readVitestReport(reportPath, underCi);
  const failed = counts.failed === 0 && status !== 0 ? 1 : counts.failed;
  const skips =
    counts.skipped === 0 ? '' : `, ${counts.skipped} SKIPPED${underCi ? ' (a failure under CI)' : ''}`;
  return {
    passed: counts.passed,
    failed,
    note: `${counts.passed} tests passed${failed === 0 ? '' : `, ${failed} FAILED`}${skips}`,
    details: counts.brokenFiles.map((path) => `could not be run: ${path}`).join('\n'),
  };
}

const stages: Stage[] = [
  program('build', 'tsc', ['-b']),
  bundleStage,
  program('types of tests', 'tsc', ['-p', 'tsconfig.test.json']),
  program('lint and format', 'biome', ['check', '--max-diagnostics=200']),
  program('unused code', 'knip', ['--no-config-hints']),
  rulesStage,
  program(
    'packages',
    'turbo',
    ['run', 'publish-check', '--continue', '--output-logs=errors-only'],
    ['build'],
  ),
  { name: 'release dry run', needs: ['build'], run: () => runReleaseDryRun(root) },
];
if (!process.argv.includes('--checks-only')) stages.push(suitesStage);

function report(stage: FinishedStage): void {
  console.log(
    `${stage.failed > 0 ? 'FAIL' : 'ok  '} ${stage.name} (${stage.seconds.toFixed(1)} s) ${stage.note}`,
  );
  const warned = stage.name === 'rules' && stage.details !== '';
  if (stage.failed > 0 || warned) console.log(stage.details.replace(/^/gm, '     '));
}

const finished = await runStages(stages, report);
console.log(`\n${showTable(finished)}\n\n${showSum(finished)}`);
process.exitCode = finished.some((stage) => stage.failed > 0) ? 1 : 0;
