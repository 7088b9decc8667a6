/**
 * Which host clusters each L2 table leads to, remembered from the first time that it was gone through: a pass over a later
 * window of the file passes over the tables that do not lead there.
 *
 * Tables are known by their number in the walk, which is the same in every pass as long as nobody changes which tables there
 * are. Of more than `maxTables` the rest is gone through every time.
 */

/** 16 MiB of numbers at most: the tables of 512 TiB in clusters of 64 KiB. */
const maxTables = 2 ** 20;

export class TableReach {
  /** First and last cluster, by turns. Empty: the first lies behind the last. */
  #ends = new Float64Array(64);
  #known = 0;

  note(table: number, first: number, last: number): void {
    if (table !== this.#known || table >= maxTables) return;
    if (2 * table >= this.#ends.length) {
      const larger = new Float64Array(this.#ends.length * 2);
      larger.set(this.#ends);
      this.#ends = larger;
    }
    this.#ends[2 * table] = first;
    this.#ends[2 * table + 1] = last;
    this.#known++;
  }

  /** The table leads to nothing between two clusters, the second one not included. */
  misses(table: number, start: number, end: number): boolean {
    return table < this.#known && (this.#ends[2 * table]! >= end || this.#ends[2 * table + 1]! < start);
  }
}
