/** Reads the hexadecimal vectors of test/journal/vectors (their shape stands in the README there). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = join(import.meta.dirname, 'vectors');

export function hexVector(name: string): Uint8Array {
  const bytes: number[] = [];
  for (const line of readFileSync(join(folder, `${name}.hex`), 'utf8').split('\n')) {
    for (const token of (line.split('#')[0] ?? '').split(/\s+/).filter((text) => text !== '')) {
      const [digits = '', count = '1'] = token.split('*');
      const byte = Number.parseInt(digits, 16);
      for (let i = 0; i < Number(count); i++) bytes.push(byte);
    }
  }
  return Uint8Array.from(bytes);
}
