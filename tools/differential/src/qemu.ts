/** QEMU's programs, run one after the other in the folder of a run. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Disagreement } from './disagreement.ts';
import { files, passphrase } from './files.ts';

/** What is called hung, on a machine that is busy with other things. */
const limitMs = 300_000;

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Qemu {
  readonly #folder: string;
  readonly #image: string;
  /** How often a program of QEMU's was started. */
  starts = 0;

  constructor(folder: string, encrypted: boolean) {
    this.#folder = folder;
    const secret = encrypted ? ',encrypt.key-secret=s' : '';
    this.#image = `driver=qcow2,file.driver=file,file.filename=${files.image}${secret}`;
  }

  static isInstalled(): boolean {
    return ['qemu-img', 'qemu-io', 'qemu-nbd'].every(
      (program) => !('error' in spawnSync(program, ['--version'])),
    );
  }

  /** `qemu-img SUBCOMMAND OPTIONS IMAGE MORE`. */
  image(subcommand: string, options: readonly string[], more: readonly string[] = []): Outcome {
    return this.#run('qemu-img', [subcommand, ...secret, '--image-opts', ...options, this.#image, ...more]);
  }

  /** The same, and it succeeds. Returns standard output. */
  mustImage(subcommand: string, options: readonly string[], more: readonly string[] = []): string {
    return this.#expectGood(subcommand, this.image(subcommand, options, more));
  }

  /** `qemu-img` with other arguments than an image that is opened. */
  must(words: readonly string[]): string {
    return this.#expectGood(words.join(' '), this.#run('qemu-img', words));
  }

  /** Commands of qemu-io, in one opening of the image. */
  io(commands: readonly string[]): void {
    const words = commands.flatMap((command) => ['-c', command]);
    const outcome = this.#run('qemu-io', [...secret, '-d', 'unmap', ...words, '--image-opts', this.#image]);
    const complains = /failed|error|not /i.test(`${outcome.stdout}${outcome.stderr}`);
    if (outcome.status !== 0 || complains) this.#fail(`qemu-io ${commands.join('; ')}`, outcome);
  }

  /** Undefined where both show the same bytes. */
  compare(bytes: Uint8Array): string | undefined {
    writeFileSync(join(this.#folder, files.truth), bytes);
    const outcome = this.image('compare', [`driver=raw,file.driver=file,file.filename=${files.truth}`]);
    return outcome.status === 0 ? undefined : textOf(outcome);
  }

  /** What a bitmap says is dirty: start and end of each range. */
  dirtyRanges(bitmap: string): { start: number; end: number }[] {
    const socket = join(this.#folder, files.socket);
    const serve = ['--fork', '-r', '-B', bitmap, '-k', socket, ...secret, '--image-opts', this.#image];
    this.#expectGood('qemu-nbd', this.#run('qemu-nbd', serve));
    // Without --persistent it ends with its first client.
    const server = `server.type=unix,server.path=${socket}`;
    const context = `x-dirty-bitmap=qemu:dirty-bitmap:${bitmap}`;
    const text = this.must(['map', '--output=json', '--image-opts', `driver=nbd,${server},${context}`]);
    const map: { start: number; length: number; data: boolean }[] = JSON.parse(text);
    return map.filter(({ data }) => !data).map(({ start, length }) => ({ start, end: start + length }));
  }

  #run(program: string, words: readonly string[]): Outcome {
    this.starts++;
    const options = { encoding: 'utf8', cwd: this.#folder, timeout: limitMs } as const;
    const { status, stdout, stderr, error } = spawnSync(program, words, options);
    if (error !== undefined) throw new Disagreement(`${program} ${words.join(' ')}: ${error.message}`);
    return { status, stdout, stderr };
  }

  #expectGood(what: string, outcome: Outcome): string {
    if (outcome.status !== 0) this.#fail(what, outcome);
    return outcome.stdout;
  }

  #fail(what: string, outcome: Outcome): never {
    throw new Disagreement(`QEMU refuses: ${what}: exit status ${outcome.status}\n${textOf(outcome)}`);
  }
}

const secret = ['--object', `secret,id=s,data=${passphrase}`];

function textOf({ stdout, stderr }: Outcome): string {
  return `${stdout}${stderr}`.trim();
}
