/** Output in many small pieces, handed on in larger ones: a system call for each line would be most of the work. */
export class TextBuffer {
  readonly #out: (text: string) => void;
  #pieces: string[] = [];
  #length = 0;

  constructor(out: (text: string) => void) {
    this.#out = out;
  }

  add(text: string): void {
    this.#pieces.push(text);
    this.#length += text.length;
    if (this.#length >= handOnAt) this.flush();
  }

  /** Hand on what is left; call it at the end. */
  flush(): void {
    if (this.#length > 0) this.#out(this.#pieces.join(''));
    this.#pieces = [];
    this.#length = 0;
  }
}

const handOnAt = 1 << 16;
