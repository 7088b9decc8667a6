/** Blocks by number, at most so many, the one that was used least recently goes first. A Map keeps their order. */
export class BlockCache {
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #mostBlocks: number;

  constructor(mostBlocks: number) {
    this.#mostBlocks = mostBlocks;
  }

  get size(): number {
    return this.#blocks.size;
  }

  /** @returns the cache's own bytes, to be copied from at once */
  find(block: number): Uint8Array | undefined {
    const bytes = this.#blocks.get(block);
    if (bytes === undefined) return undefined;
    this.#blocks.delete(block);
    this.#blocks.set(block, bytes);
    return bytes;
  }

  has(block: number): boolean {
    return this.#blocks.has(block);
  }

  /** @param bytes belong to the cache from here on */
  put(block: number, bytes: Uint8Array): void {
    this.#blocks.delete(block);
    this.#blocks.set(block, bytes);
    if (this.#blocks.size <= this.#mostBlocks) return;
    for (const oldest of this.#blocks.keys()) {
      this.#blocks.delete(oldest);
      return;
    }
  }

  clear(): void {
    this.#blocks.clear();
  }
}
