/** What a rule found: the rule's name, where, and what is wrong in words that say how to put it right. */
export interface Finding {
  readonly rule: string;
  /** Path from the root of the repository. */
  readonly path: string;
  /** 1-based; 0 where the whole file is meant. */
  readonly line: number;
  readonly message: string;
  /** A warning is printed and does not fail the run. */
  readonly severity: 'error' | 'warning';
}

export function finding(rule: string, path: string, line: number, message: string): Finding {
  return { rule, path, line, message, severity: 'error' };
}

export function warning(rule: string, path: string, line: number, message: string): Finding {
  return { rule, path, line, message, severity: 'warning' };
}

export function showFinding(found: Finding): string {
  const where = found.line === 0 ? found.path : `${found.path}:${found.line}`;
  return `${where}: ${found.message} [${found.rule}]`;
}

/** The house itself could not do its work: a document without its table, a command that is not there. */
export class HouseError extends Error {
  override readonly name = 'HouseError';
}
