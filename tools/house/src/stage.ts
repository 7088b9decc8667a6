/** A stage of the run: something that can pass or fail, takes time, and has something to show when it fails. */

export interface StageResult {
  readonly passed: number;
  readonly failed: number;
  /** A few words for the table. */
  readonly note: string;
  /** What a reader needs to put a failure right; shown at once when the stage failed. */
  readonly details: string;
}

export interface Stage {
  readonly name: string;
  /** Names of stages without whose success this one can not say anything: it then fails without being run. */
  readonly needs?: readonly string[];
  readonly run: () => Promise<StageResult>;
}

export interface FinishedStage extends StageResult {
  readonly name: string;
  readonly seconds: number;
}

export type Report = (stage: FinishedStage) => void;

/** Run all stages in order, the later ones even where earlier ones failed. A stage that throws has failed. */
export async function runStages(stages: readonly Stage[], report: Report): Promise<FinishedStage[]> {
  const finished: FinishedStage[] = [];
  for (const stage of stages) {
    const start = performance.now();
    const missing = stage.needs?.find((name) => finished.some((one) => one.name === name && one.failed > 0));
    const result = missing === undefined ? await settle(stage) : notRun(`not run: ${missing} failed`);
    const done = { ...result, name: stage.name, seconds: (performance.now() - start) / 1000 };
    finished.push(done);
    report(done);
  }
  return finished;
}

async function settle(stage: Stage): Promise<StageResult> {
  try {
    return await stage.run();
  } catch (error) {
    return { passed: 0, failed: 1, note: 'broke down', details: String((error as Error).stack ?? error) };
  }
}

function notRun(note: string): StageResult {
  return { passed: 0, failed: 1, note, details: '' };
}

export function showTable(stages: readonly FinishedStage[]): string {
  const width = Math.max(...stages.map((stage) => stage.name.length));
  const rows = stages.map((stage) => {
    const mark = stage.failed > 0 ? 'FAIL' : 'ok  ';
    const seconds = stage.seconds.toFixed(1).padStart(7);
    return `${mark} ${stage.name.padEnd(width)} ${seconds} s  ${stage.note}`.trimEnd();
  });
  const total = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  return [...rows, `     ${'in all'.padEnd(width)} ${total.toFixed(1).padStart(7)} s`].join('\n');
}

/** The last line of a run. */
export function showSum(stages: readonly StageResult[]): string {
  const passed = stages.reduce((sum, stage) => sum + stage.passed, 0);
  const failed = stages.reduce((sum, stage) => sum + stage.failed, 0);
  return `${passed} passed, ${failed} failed`;
}
