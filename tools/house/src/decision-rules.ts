/** `docs/adr`: each decision has a number of its own, in its name and in its title. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Finding, finding } from './finding.ts';

const rule = 'docs/adr';

export function checkDecisions(root: string): Finding[] {
  const findings: Finding[] = [];
  const seen = new Map<string, string>();
  for (const name of readdirSync(join(root, 'docs/adr')).sort()) {
    if (name === 'README.md') continue;
    const path = `docs/adr/${name}`;
    const [, digits] = /^(\d{4})-[a-z\d-]+\.md$/.exec(name) ?? [];
    if (digits === undefined) {
      findings.push(finding(rule, path, 0, 'the name is not that of a decision: 0001-what-it-says.md'));
      continue;
    }
    const other = seen.get(digits);
    if (other !== undefined) findings.push(finding(rule, path, 0, `${other} has this number, too`));
    seen.set(digits, name);
    const title = readFileSync(join(root, path), 'utf8').split('\n', 1)[0] ?? '';
    const start = `# ${Number(digits)}. `;
    if (!title.startsWith(start))
      findings.push(finding(rule, path, 1, `the title must begin with '${start}'`));
  }
  return findings;
}
