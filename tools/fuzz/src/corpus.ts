/** The corpus on disk: one file of lines for each target, in `corpus/`. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FuzzInput, formatInput, parseCorpus } from './input.ts';

const folder = join(import.meta.dirname, '..', 'corpus');

function fileOf(target: string): string {
  return join(folder, `${target}.txt`);
}

export function loadCorpus(target: string): FuzzInput[] {
  const path = fileOf(target);
  return existsSync(path) ? parseCorpus(readFileSync(path, 'utf8')) : [];
}

export function saveCorpus(target: string, inputs: readonly FuzzInput[]): void {
  const head = `# Inputs of target ${target} that gave an answer of their own. Made by \`pnpm fuzz --save\`.\n`;
  writeFileSync(fileOf(target), `${head}${inputs.map(formatInput).join('\n')}\n`);
}
