/** Many at once, or one alone; who comes first goes first. */
export class SharedLock {
  /** Of those that hold it now. */
  #holders = 0;
  #isAlone = false;
  readonly #waiting: { readonly alone: boolean; readonly enter: () => void }[] = [];

  /** Run `action` with others that are not alone either. */
  async shared<T>(action: () => Promise<T>): Promise<T> {
    return await this.#run(false, action);
  }

  async alone<T>(action: () => Promise<T>): Promise<T> {
    return await this.#run(true, action);
  }

  async #run<T>(alone: boolean, action: () => Promise<T>): Promise<T> {
    await this.#enter(alone);
    try {
      return await action();
    } finally {
      this.#holders--;
      this.#isAlone = false;
      this.#admit();
    }
  }

  async #enter(alone: boolean): Promise<void> {
    await new Promise<void>((enter) => {
      this.#waiting.push({ alone, enter });
      this.#admit();
    });
  }

  #admit(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#isAlone || (next.alone && this.#holders > 0)) return;
      this.#waiting.shift();
      this.#holders++;
      this.#isAlone = next.alone;
      next.enter();
    }
  }
}
