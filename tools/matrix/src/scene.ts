/**
 * The folder where combinations are run: what all of them share (texts to write, backing files, made once for each size), and
 * the names of one combination's files. One combination at a time.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '@qcow2/seeded';
import { DiskModel, type Fills, type Step } from './disk-model.ts';
import { must } from './programs.ts';
import { drawPhases, type Shape } from './workload.ts';

export const imageName = 'image.qcow2';
export const dataName = 'image.data';
export const passphrase = 'open sesame';

/** A backing file: what it is called, and what the disk over it shows. */
export interface Base {
  readonly name: string;
  readonly format: 'raw' | 'qcow2';
  readonly bytes: Uint8Array;
}

/** Some of them are larger than a piece of 64 KiB, none a power of two, so that pieces differ. */
const fillBytes = { noise: 65536 + 1024, mixed: 32768 + 512 } as const;

export class Scene {
  readonly folder: string;
  readonly fills: Fills;
  readonly #bases = new Map<string, Base>();

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'qcow2-matrix-'));
    const random = new SeededRandom(1);
    this.fills = { noise: new Uint8Array(fillBytes.noise), mixed: new Uint8Array(fillBytes.mixed) };
    random.fill(this.fills.noise);
    for (let at = 0; at < fillBytes.mixed; at += 256) random.fill(this.fills.mixed.subarray(at, at + 160));
    for (const name of ['noise', 'mixed'] as const) writeFileSync(this.path(name), this.fills[name]);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** The backing file for disks of a size: shorter than they, and ending within a cluster. */
  base(format: Base['format'], shape: Shape): Base {
    const name = `base-${shape.sizeBytes}.${format}`;
    const known = this.#bases.get(name);
    if (known !== undefined) return known;
    const made = format === 'raw' ? this.#makeRaw(name, shape) : this.#makeQcow2(name, shape);
    this.#bases.set(name, made);
    return made;
  }

  /** Data with holes, and a last sector that is not whole. */
  #makeRaw(name: string, { sizeBytes }: Shape): Base {
    const bytes = new Uint8Array(Math.floor(sizeBytes * 0.6) + 333);
    must('truncate', ['-s', String(bytes.length), name], this.folder);
    for (const part of [0, 2, 3, 6]) {
      const offset = Math.floor((bytes.length * part) / 8 / 4096) * 4096;
      const length = Math.min(20_000, bytes.length - offset);
      bytes.set(this.fills.noise.subarray(0, length), offset);
      const words = [
        'if=noise',
        `of=${name}`,
        'conv=notrunc',
        'bs=1',
        'iflag=count_bytes',
        `count=${length}`,
      ];
      must('dd', [...words, 'oflag=seek_bytes', `seek=${offset}`, 'status=none'], this.folder);
    }
    return { name, format: 'raw', bytes };
  }

  /** Every kind of cluster, in clusters of another size than those of the image above. */
  #makeQcow2(name: string, { sizeBytes, clusterBytes }: Shape): Base {
    const shape = { sizeBytes: Math.floor((sizeBytes * 0.7) / 512) * 512, clusterBytes: 8192 };
    if (clusterBytes === shape.clusterBytes) shape.clusterBytes = 4096;
    const options = `cluster_size=${shape.clusterBytes}`;
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, name, `${shape.sizeBytes}`], this.folder);
    const steps = drawPhases(new SeededRandom(sizeBytes), shape, true).flat();
    must('qemu-io', ['-d', 'unmap', ...ioCommands(steps), name], this.folder);
    const model = new DiskModel(shape.sizeBytes, {
      clusterBytes: shape.clusterBytes,
      discards: true,
      fills: this.fills,
    });
    for (const step of steps) model.apply(step);
    return { name, format: 'qcow2', bytes: model.bytes };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Steps as words for qemu-io, to be run in the scene's folder. */
export function ioCommands(steps: readonly Step[]): string[] {
  const how = {
    write: 'write',
    compressed: 'write -c',
    zero: 'write -z',
    unmap: 'write -z -u',
    discard: 'discard',
  };
  return steps.flatMap(({ kind, offset, lengthBytes, fill }) => {
    const isFilled = kind === 'write' || kind === 'compressed';
    const what = !isFilled ? '' : typeof fill === 'number' ? `-P ${fill} ` : `-s ${fill} `;
    return ['-c', `${how[kind]} ${what}${offset} ${lengthBytes}`];
  });
}
