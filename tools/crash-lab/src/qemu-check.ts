/**
 * A second opinion: the real `qemu-img check` on a recovered image, where it is installed. It costs a
 * process each time, so only one image in many is shown to it.
 */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class QemuCheck {
  readonly #folder: string;
  readonly #oneIn: number;

  private constructor(oneIn: number, files: ReadonlyMap<string, Uint8Array>) {
    this.#folder = mkdtempSync(join(tmpdir(), 'qcow2-crash-lab-'));
    this.#oneIn = oneIn;
    for (const [name, bytes] of files) writeFileSync(join(this.#folder, name), bytes);
  }

  /**
   * Undefined where qemu-img is not installed.
   * @param files put beside the image under their names: the backing files that it names
   */
  static find(oneIn: number, files: ReadonlyMap<string, Uint8Array> = new Map()): QemuCheck | undefined {
    try {
      execFileSync('qemu-img', ['--version'], { stdio: 'ignore' });
    } catch {
      return undefined;
    }
    return new QemuCheck(oneIn, files);
  }

  /** @param lot a number that is the image's own, so that the same images are shown in every run */
  wants(lot: number): boolean {
    return lot % this.#oneIn === 0;
  }

  /** What qemu-img complains about, or undefined. */
  async check(image: Uint8Array, leaksAreFailures: boolean): Promise<string | undefined> {
    const path = join(this.#folder, 'image.qcow2');
    writeFileSync(path, image);
    const { code, output } = await run('qemu-img', ['check', '-f', 'qcow2', path]);
    // 0: whole; 3: leaked clusters and nothing worse.
    if (code === 0 || (code === 3 && !leaksAreFailures)) return undefined;
    return `qemu-img check exits with ${code}:\n  ${output.trim().split('\n').join('\n  ')}`;
  }

  close(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function run(command: string, parameters: readonly string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    execFile(command, parameters, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, output: `${stdout}${stderr}` });
    });
  });
}
