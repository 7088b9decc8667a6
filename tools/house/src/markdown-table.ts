/** Tables in documents that rules obey: found by a marker comment, so that prose around them is free. */
import { HouseError } from './finding.ts';

/** Rows of the first table after `<!-- marker -->`, header and ruler left out, cells trimmed. */
export function tableAfter(document: string, marker: string, path: string): string[][] {
  const lines = document.split('\n');
  const from = lines.findIndex((line) => line.trim() === `<!-- ${marker} -->`);
  if (from === -1) throw new HouseError(`${path} has no table marked <!-- ${marker} -->`);
  const first = lines.findIndex((line, index) => index > from && line.startsWith('|'));
  if (first === -1) throw new HouseError(`${path}: no table follows <!-- ${marker} -->`);
  const rows: string[][] = [];
  for (let index = first + 2; lines[index]?.startsWith('|'); index++) rows.push(cells(lines[index]!));
  return rows;
}

function cells(line: string): string[] {
  return line
    .trim()
    .replace(/^\||\|$/g, '')
    .split('|')
    .map((cell) => cell.trim());
}

/** The names between backticks in a cell. */
export function namesIn(cell: string): string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!);
}
