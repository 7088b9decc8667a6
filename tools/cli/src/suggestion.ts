/** "Did you mean": the word of a list that a mistyped one comes nearest to. */

/** Optimal string alignment: letters put in, left out, changed, or exchanged with their neighbour. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + change);
      const exchanged = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (exchanged) least = Math.min(least, before[j - 2]! + 1);
      row.push(least);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

const longest = 32;

/** The nearest of `words`, if it is near enough to be meant: a third of its letters, two at most, and one at least. */
export function nearest(typed: string, words: readonly string[]): string | undefined {
  if (typed.length > longest) return undefined;
  let found: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const word of words) {
    const away = distance(typed, word);
    const most = Math.min(2, Math.max(1, Math.floor(word.length / 3)));
    if (away <= most && away < least) [found, least] = [word, away];
  }
  return found;
}
