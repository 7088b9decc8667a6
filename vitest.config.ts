import { defineConfig } from 'vitest/config';

// Tests run on the sources of every workspace package (the `qcow2-source` export condition), so no build goes stale under them.
export default defineConfig({
  resolve: { conditions: ['qcow2-source', 'import', 'module', 'node', 'default'] },
  ssr: { resolve: { conditions: ['qcow2-source', 'import', 'module', 'node', 'default'] } },
  test: {
    include: [
      'packages/*/src/**/*.test.ts',
      'packages/*/test/**/*.test.ts',
      'tools/*/src/**/*.test.ts',
      'tools/*/test/**/*.test.ts',
    ],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
  },
});
