/** What QEMU does with the image of a combination, through its programs. Each call starts one of them, or two. */
import { readFileSync, rmSync } from 'node:fs';
import { type Combination, refcountBitsOf } from './dimensions.ts';
import type { DirtyRange, Step } from './disk-model.ts';
import { must, type Outcome, Server, start } from './programs.ts';
import { dataName, imageName, ioCommands, passphrase, type Scene } from './scene.ts';
import { type Shape, shapeOf } from './workload.ts';

/** A line of `qemu-img map --output=json`. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly offset?: number;
}

/** What is compared of `qemu-img info --output=json`. */
export interface QemuInfo {
  readonly 'virtual-size': number;
  readonly 'cluster-size': number;
  readonly 'dirty-flag': boolean;
  readonly encrypted?: boolean;
  readonly snapshots?: readonly { readonly id: string; readonly name: string }[];
  readonly 'format-specific': {
    readonly data: {
      readonly compat: string;
      readonly 'refcount-bits': number;
      readonly corrupt?: boolean;
      readonly 'extended-l2'?: boolean;
      readonly 'data-file'?: string;
      readonly 'data-file-raw'?: boolean;
      readonly 'compression-type': string;
      readonly encrypt?: { readonly format: string };
      readonly bitmaps?: readonly QemuBitmap[];
    };
  };
}

export interface QemuBitmap {
  readonly name: string;
  readonly granularity: number;
  readonly flags: readonly string[];
}

const secret = ['--object', `secret,id=s,data=${passphrase}`];

export class QemuSide {
  readonly #scene: Scene;
  readonly #combination: Combination;
  readonly #shape: Shape;

  constructor(scene: Scene, combination: Combination) {
    this.#scene = scene;
    this.#combination = combination;
    this.#shape = shapeOf(combination);
  }

  /** May fail: which images QEMU makes is to be seen. */
  create(): Outcome {
    const one = this.#combination;
    const options = [
      `compat=${one.version}`,
      `cluster_size=${this.#shape.clusterBytes}`,
      `refcount_bits=${refcountBitsOf(one)}`,
      ...(one.entries === 'extended' ? ['extended_l2=on'] : []),
      ...(one.compression === 'zstd' ? ['compression_type=zstd'] : []),
      ...(one.data === 'inside' ? [] : [`data_file=${dataName}`]),
      ...(one.data === 'rawfile' ? ['data_file_raw=on'] : []),
      ...(one.encryption === 'clear' ? [] : [`encrypt.format=${one.encryption}`, 'encrypt.key-secret=s']),
      ...(one.encryption === 'luks' ? ['encrypt.iter-time=10'] : []),
    ];
    const backing = this.#backingWords();
    const words = ['-q', '-f', 'qcow2', ...this.#secret, '-o', options.join(','), ...backing, imageName];
    return start('qemu-img', ['create', ...words, String(this.#shape.sizeBytes)], this.#scene.folder);
  }

  #backingWords(): string[] {
    const { backing } = this.#combination;
    if (backing === 'alone') return [];
    const { name, format } = this.#scene.base(backing === 'onraw' ? 'raw' : 'qcow2', this.#shape);
    return ['-b', name, '-F', format];
  }

  fill(steps: readonly Step[]): Outcome {
    return start(
      'qemu-io',
      [...this.#secret, '-d', 'unmap', ...ioCommands(steps), ...this.#named('')],
      this.#scene.folder,
    );
  }

  snapshot(what: 'snapshot' | 'apply' | 'delete', name: string): Outcome {
    const how = { snapshot: '-c', apply: '-a', delete: '-d' }[what];
    return this.#image('snapshot', [how, name], []);
  }

  /** @param words what is done to it, as for `qemu-img bitmap` */
  bitmap(words: readonly string[], name: string): Outcome {
    return this.#image('bitmap', words, [name]);
  }

  check(): Outcome {
    return this.#image('check', ['--output=json'], []);
  }

  snapshotList(): string {
    return this.#must('snapshot', ['-l']);
  }

  map(): readonly MapEntry[] {
    return JSON.parse(this.#must('map', ['--output=json']));
  }

  info(): QemuInfo {
    return JSON.parse(this.#must('info', ['--output=json']));
  }

  /** All bytes of the disk, or of a snapshot's. */
  read(snapshot?: string): Uint8Array {
    const view = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
    const words = [...this.#secret, ...view, '-O', 'raw', ...this.#named('qcow2'), 'out.raw'];
    must('qemu-img', ['convert', ...words], this.#scene.folder);
    const bytes = readFileSync(this.#scene.path('out.raw'));
    rmSync(this.#scene.path('out.raw'));
    return bytes;
  }

  /** What a bitmap says has changed: qemu-nbd exports it, libnbd asks. */
  async dirty(name: string): Promise<DirtyRange[]> {
    const socket = this.#scene.path('socket');
    const words = ['-t', '-r', '-B', name, '-k', socket, '--pid-file=pid'];
    const server = new Server(
      'qemu-nbd',
      [...this.#secret, ...words, ...this.#named('qcow2')],
      this.#scene.folder,
    );
    try {
      // Written when it listens.
      await server.made(this.#scene.path('pid'));
      const asked = ['--json', `--map=qemu:dirty-bitmap:${name}`, `nbd+unix:///?socket=${socket}`];
      const map: { offset: number; length: number; type: number }[] = JSON.parse(
        must('nbdinfo', asked, this.#scene.folder),
      );
      const dirty = map.filter(({ type }) => (type & 1) === 1);
      return dirty.map(({ offset, length }) => ({ offset, lengthBytes: length }));
    } finally {
      await server.end();
      for (const left of ['socket', 'pid']) rmSync(this.#scene.path(left), { force: true });
    }
  }

  get #secret(): readonly string[] {
    return this.#combination.encryption === 'clear' ? [] : secret;
  }

  /** @param format named where the image is in the clear; `` where that can not be said */
  #named(format: string): string[] {
    if (this.#combination.encryption === 'clear')
      return format === '' ? [imageName] : ['-f', format, imageName];
    return ['--image-opts', `driver=qcow2,file.filename=${imageName},encrypt.key-secret=s`];
  }

  #image(command: string, words: readonly string[], rest: readonly string[]): Outcome {
    const format = command === 'snapshot' ? '' : 'qcow2';
    return start(
      'qemu-img',
      [command, ...this.#secret, ...words, ...this.#named(format), ...rest],
      this.#scene.folder,
    );
  }

  #must(command: string, words: readonly string[]): string {
    const format = command === 'snapshot' ? '' : 'qcow2';
    return must('qemu-img', [command, ...this.#secret, ...words, ...this.#named(format)], this.#scene.folder);
  }
}
