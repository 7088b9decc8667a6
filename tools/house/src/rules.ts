/** The rules of the house, each a name and a function from the repository to what it found. */
import { checkDecisions } from './decision-rules.ts';
import { checkDependencies } from './dependency-rules.ts';
import { checkErrorsPage } from './errors-page.ts';
import { type Finding, finding } from './finding.ts';
import { checkImports } from './import-rules.ts';
import { loadImportTable } from './import-table.ts';
import { checkErrors, checkSizes, checkWords } from './source-rules.ts';
import { loadWorkspace, type Workspace } from './workspace.ts';

export interface Rule {
  readonly name: string;
  readonly check: (workspace: Workspace) => Finding[];
}

export const rules: readonly Rule[] = [
  { name: 'import table', check: (workspace) => checkImports(workspace, loadImportTable(workspace.root)) },
  { name: 'errors carry codes', check: checkErrors },
  { name: 'file sizes', check: checkSizes },
  { name: 'words', check: (workspace) => checkWords(workspace.root) },
  { name: 'docs/errors.md', check: (workspace) => checkErrorsPage(workspace.root) },
  { name: 'docs/dependencies.md', check: checkDependencies },
  { name: 'docs/adr', check: (workspace) => checkDecisions(workspace.root) },
];

export interface RuleOutcome {
  readonly rule: string;
  readonly findings: readonly Finding[];
}

/** Every rule on the repository at `root`; a rule that can not do its work counts as a finding of its own. */
export function runRules(root: string): RuleOutcome[] {
  const workspace = loadWorkspace(root);
  return rules.map(({ name, check }) => {
    try {
      return { rule: name, findings: check(workspace) };
    } catch (error) {
      return { rule: name, findings: [finding(name, '.', 0, (error as Error).message)] };
    }
  });
}
