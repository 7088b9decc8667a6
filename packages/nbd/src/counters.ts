/** What a server has done so far. All numbers count up, but for `connectionsOpen` and `connectionsWaiting`. */
import { LatencyTally, type NbdLatencies } from './latency.ts';
import { type CommandName, command } from './protocol.ts';

export interface NbdServerCounters {
  /** connections taken in, also those that are gone */
  readonly connections: number;
  readonly connectionsOpen: number;
  /** accepted, but held back by the client limit */
  readonly connectionsWaiting: number;
  /** whole requests received, by command */
  readonly requests: Readonly<Record<CommandName | 'unknown', number>>;
  /** requests that were answered with an error */
  readonly failures: number;
  /** guest bytes that READ returned and WRITE brought */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** How long requests took; of a server with `measureLatency`. */
  readonly latencies: NbdLatencies | undefined;
}

const names = Object.keys(command) as CommandName[];
const nameByType: readonly (CommandName | undefined)[] = (() => {
  const table: CommandName[] = [];
  for (const name of names) table[command[name]] = name;
  return table;
})();

/** The running sums, shared by all connections of a server. */
export class Tally {
  readonly #requests: number[] = names.map(() => 0);
  #unknown = 0;
  /** Undefined: nobody looks at the clock. */
  readonly latency: LatencyTally | undefined;
  connections = 0;
  failures = 0;
  bytesRead = 0;
  bytesWritten = 0;

  constructor(measureLatency = false) {
    this.latency = measureLatency ? new LatencyTally() : undefined;
  }

  request(type: number): void {
    const count = this.#requests[type];
    if (count === undefined) this.#unknown += 1;
    else this.#requests[type] = count + 1;
  }

  snapshot(connectionsOpen: number, connectionsWaiting: number): NbdServerCounters {
    const requests = { unknown: this.#unknown } as Record<CommandName | 'unknown', number>;
    for (const [type, count] of this.#requests.entries()) {
      const name = nameByType[type];
      if (name !== undefined) requests[name] = count;
    }
    return {
      connections: this.connections,
      connectionsOpen,
      connectionsWaiting,
      requests,
      failures: this.failures,
      bytesRead: this.bytesRead,
      bytesWritten: this.bytesWritten,
      latencies: this.latency?.snapshot(),
    };
  }
}
