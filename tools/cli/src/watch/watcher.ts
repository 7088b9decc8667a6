/** The other end of a watch socket: one sample at a time. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import { CommandFailure } from '../failures.ts';
import { systemReason } from '../system-reason.ts';
import { parseSample, type WatchSample } from './sample.ts';

/** A server that does not answer within this does nothing else either. */
const patienceMs = 10_000;

export class Watcher {
  readonly #socket: Socket;
  readonly #reader: Interface;
  readonly #lines: AsyncIterator<string>;
  #answered = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => {}); // the lines end as well
    this.#reader = createInterface({ input: socket });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  /** @throws CommandFailure where nobody answers */
  static async connect(path: string): Promise<Watcher> {
    const socket = connect({ path });
    try {
      await once(socket, 'connect');
    } catch (cause) {
      const refused = cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED';
      const reason = refused ? 'no server listens there' : systemReason(cause);
      throw new CommandFailure(`Could not watch '${path}': ${reason}`, { cause });
    }
    return new Watcher(socket);
  }

  /** @returns undefined when the server has ended. @throws CommandFailure for an answer that is none */
  async sample(): Promise<WatchSample | undefined> {
    this.#socket.write('\n');
    this.#socket.setTimeout(patienceMs, () => this.#socket.destroy());
    const line = await this.#nextLine();
    this.#socket.setTimeout(0);
    const sample = line === undefined ? undefined : parseSample(line);
    // One that ends without having answered at all was none of ours either.
    if (sample === undefined && !(line === undefined && this.#answered)) {
      throw new CommandFailure('what listens there is not the watch socket of a server');
    }
    this.#answered = true;
    return sample;
  }

  /** @returns undefined at the end, however it came */
  async #nextLine(): Promise<string | undefined> {
    try {
      const { value, done } = await this.#lines.next();
      return done === true ? undefined : value;
    } catch {
      return undefined;
    }
  }

  close(): void {
    this.#reader.close();
    this.#socket.destroy();
  }
}
