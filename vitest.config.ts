import { defineConfig } from 'vitest/config';

// Tests run on the sources of every workspace package (the `qcow2-source` export condition), so no build goes
// stale under them. Only what starts the command as a process (test/interop) needs `pnpm build` first.
const conditions = ['qcow2-source', 'import', 'module', 'node', 'default'];

const interop = ['packages/*/test/interop/**/*.test.ts', 'tools/*/test/interop/**/*.test.ts'];
const crash = [
  'packages/*/test/fault/**/*.test.ts',
  'tools/*/test/fault/**/*.test.ts',
  'tools/crash-lab/**/*.test.ts',
];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: [
            'packages/*/src/**/*.test.ts',
            'packages/*/test/**/*.test.ts',
            'tools/*/src/**/*.test.ts',
            'tools/*/test/**/*.test.ts',
          ],
          exclude: ['**/node_modules/**', '**/dist/**', ...interop, ...crash],
        },
      },
      {
        extends: true,
        test: {
          name: 'interop',
          include: interop,
          exclude: ['**/node_modules/**', '**/dist/**'],
          testTimeout: 300_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'crash',
          include: crash,
          exclude: ['**/node_modules/**', '**/dist/**'],
          testTimeout: 600_000,
        },
      },
    ],
  },
});
