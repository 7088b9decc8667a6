/**
 * Fewer operations that fail in the same way: halves, quarters and so on of the list are left out, as long as that helps. Operations draw
 * from generators of their own, so the others stay, but for what depends on the disk's size and on what there is.
 */

/**
 * @param fails whether these operations fail as all of them did
 * @param most how often it is asked at most
 */
export async function minimize(
  operations: readonly number[],
  fails: (operations: readonly number[]) => Promise<boolean>,
  most: number,
): Promise<readonly number[]> {
  let kept = operations;
  let asked = 0;
  for (let size = Math.ceil(kept.length / 2); size >= 1; ) {
    let helped = false;
    for (let at = 0; at < kept.length && asked < most; ) {
      const rest = [...kept.slice(0, at), ...kept.slice(at + size)];
      asked++;
      if (await fails(rest)) {
        kept = rest;
        helped = true;
      } else at += size;
    }
    if (asked >= most || (size === 1 && !helped)) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
  }
  return kept;
}
