/**
 * How much work may be under way at once: a number of jobs and a number of bytes that they hold. Who comes when there is
 * no room waits in line, and the line moves in order: so a request over many clusters holds as much memory as the
 * gate lets in, however many clusters it has.
 *
 * One job is let in whatever it holds, or it would wait for ever.
 */
import { InvariantError } from '@qcow2/spec';

interface Waiting {
  readonly bytes: number;
  readonly enter: () => void;
}

export class JobGate {
  readonly #maxJobs: number;
  readonly #maxBytes: number;
  readonly #line: Waiting[] = [];
  #jobs = 0;
  #bytes = 0;

  constructor(maxJobs: number, maxBytes: number) {
    this.#maxJobs = maxJobs;
    this.#maxBytes = maxBytes;
  }

  /** Jobs that have entered and not left. */
  get jobs(): number {
    return this.#jobs;
  }

  /** Bytes that they hold. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A job begins: at once where there is room for it, else when it is its turn. It leaves however it ends. */
  enter(bytes: number): void | Promise<void> {
    if (this.#line.length === 0 && this.#hasRoom(bytes)) {
      this.#admit(bytes);
      return;
    }
    return new Promise((enter) => {
      this.#line.push({ bytes, enter });
    });
  }

  leave(bytes: number): void {
    if (this.#jobs === 0) throw new InvariantError('a job left that had not entered');
    this.#jobs--;
    this.#bytes -= bytes;
    for (let next = this.#line[0]; next !== undefined && this.#hasRoom(next.bytes); next = this.#line[0]) {
      this.#line.shift();
      this.#admit(next.bytes);
      next.enter();
    }
  }

  #hasRoom(bytes: number): boolean {
    return this.#jobs === 0 || (this.#jobs < this.#maxJobs && this.#bytes + bytes <= this.#maxBytes);
  }

  #admit(bytes: number): void {
    this.#jobs++;
    this.#bytes += bytes;
  }
}
