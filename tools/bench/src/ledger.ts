/** What was measured, by case, contender and round. */
import type { Contender, Served } from './contender.ts';
import { type FioLoad, type FioResult, runFio } from './fio.ts';
import { median, ratioOf, type Spread } from './statistics.ts';
import type { Workspace } from './workspace.ts';

export interface Measured extends FioResult {
  /** Processor time of the server for each request, flushes included; NaN where the system does not tell. */
  readonly processTimeUs: number;
}

export class Ledger {
  readonly #results = new Map<string, Measured[]>();

  /** Load a contender's server, and keep what came of it under the name of the case. */
  async measure(
    what: string,
    who: Contender,
    server: Served,
    workspace: Workspace,
    load: FioLoad,
  ): Promise<void> {
    const before = server.processTimeUs();
    const result = await runFio(workspace, server.socket, load);
    const processTimeUs = (server.processTimeUs() - before) / result.requests;
    this.#list(what, who).push({ ...result, processTimeUs });
  }

  /** Median over the rounds. */
  median(what: string, who: Contender, pick: (result: Measured) => number): number {
    return median(this.#list(what, who).map(pick));
  }

  rate(what: string, who: Contender): number {
    return this.median(what, who, (result) => result.requestsPerSecond);
  }

  processTimeUs(what: string, who: Contender): number {
    return this.median(what, who, (result) => result.processTimeUs);
  }

  /** Ratio of the rates, each within its round. */
  ratio(what: string, ours: Contender, theirs: Contender): Spread {
    const rates = (who: Contender): number[] =>
      this.#list(what, who).map((result) => result.requestsPerSecond);
    return ratioOf(rates(ours), rates(theirs));
  }

  #list(what: string, who: Contender): Measured[] {
    const key = `${what}|${who.name}`;
    const list = this.#results.get(key) ?? [];
    this.#results.set(key, list);
    return list;
  }
}
