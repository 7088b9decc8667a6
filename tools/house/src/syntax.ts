/**
 * What the rules need to know of a TypeScript file's syntax, taken from a real parser: a regular expression
 * would see imports in comments and miss `import('./x.ts').T` in a type.
 */
import { parseSync } from 'oxc-parser';

export interface ImportSite {
  readonly specifier: string;
  readonly line: number;
  /** `import(…)` with something else than a literal; `specifier` is then empty. */
  readonly computed: boolean;
}

export interface NameSite {
  readonly name: string;
  readonly line: number;
}

export interface Syntax {
  readonly imports: readonly ImportSite[];
  /** Identifiers that are read as variables or named as types: not property names, not keys. */
  readonly names: readonly NameSite[];
  /** `new X(…)` and `X(…)` of a plain name X. */
  readonly calls: readonly NameSite[];
  /** Text of the first syntax error, if any. */
  readonly error: string | undefined;
}

interface AstNode {
  readonly type: string;
  readonly start: number;
  readonly [key: string]: unknown;
}

export function readSyntax(path: string, text: string): Syntax {
  const parsed = parseSync(path, text, { sourceType: 'module' });
  const lineOf = lineFinder(text);
  const imports: ImportSite[] = [];
  const names: NameSite[] = [];
  const calls: NameSite[] = [];

  const visit = (node: AstNode, parent: AstNode | undefined, key: string): void => {
    const source = importSource(node);
    if (source !== undefined) {
      const literal = literalText(source);
      imports.push({ specifier: literal ?? '', line: lineOf(node.start), computed: literal === undefined });
    }
    if (node.type === 'NewExpression' || node.type === 'CallExpression') {
      const callee = node.callee;
      if (isNode(callee) && callee.type === 'Identifier') {
        calls.push({ name: String(callee.name), line: lineOf(node.start) });
      }
    }
    if (node.type === 'Identifier' && !isPropertyName(parent, key)) {
      names.push({ name: String(node.name), line: lineOf(node.start) });
    }
    for (const [childKey, child] of Object.entries(node)) {
      if (Array.isArray(child)) {
        for (const item of child) if (isNode(item)) visit(item, node, childKey);
      } else if (isNode(child)) {
        visit(child, node, childKey);
      }
    }
  };
  visit(parsed.program as unknown as AstNode, undefined, '');
  return { imports, names, calls, error: parsed.errors[0]?.message };
}

function isNode(value: unknown): value is AstNode {
  return (
    typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
  );
}

/** The node that holds the specifier where `node` brings in another module, in whatever form. */
function importSource(node: AstNode): AstNode | undefined {
  switch (node.type) {
    case 'ImportDeclaration':
    case 'ExportNamedDeclaration':
    case 'ExportAllDeclaration':
    case 'ImportExpression':
    case 'TSImportType':
      return isNode(node.source) ? node.source : undefined;
    case 'TSExternalModuleReference':
      return isNode(node.expression) ? node.expression : undefined;
    default:
      return undefined;
  }
}

function literalText(node: AstNode): string | undefined {
  return node.type === 'Literal' && typeof node.value === 'string' ? node.value : undefined;
}

function isPropertyName(parent: AstNode | undefined, key: string): boolean {
  if (parent === undefined || parent.computed === true) return false;
  switch (parent.type) {
    case 'MemberExpression':
      return key === 'property' && !isGlobalThis(parent.object);
    case 'Property':
    case 'PropertyDefinition':
    case 'MethodDefinition':
    case 'TSPropertySignature':
    case 'TSMethodSignature':
      // `{ process }` is a key and a value at once: the value is visited as well, and counts.
      return key === 'key';
    case 'TSQualifiedName':
      return key === 'right';
    default:
      return false;
  }
}

function isGlobalThis(node: unknown): boolean {
  return isNode(node) && node.type === 'Identifier' && node.name === 'globalThis';
}

function lineFinder(text: string): (at: number) => number {
  const starts = [0];
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  return (at) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= at) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  };
}
