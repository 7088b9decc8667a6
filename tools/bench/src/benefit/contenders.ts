/**
 * Who is compared: our server on each kind of image that it writes, and qemu-nbd on its own. Each makes its image
 * for a case in its own way, or takes a copy of one that qemu-img filled.
 */
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs';
import { type Contender, syncFile } from '../contender.ts';
import type { Workspace } from '../workspace.ts';
import type { ImageKind } from './cases.ts';

export const contenderIds = ['v1', 'draft-2013', 'ordered', 'lazy', 'qemu', 'qemu-lazy', 'raw'] as const;
export type ContenderId = (typeof contenderIds)[number];

export interface BenefitContender extends Pick<Contender, 'name' | 'server'> {
  readonly id: ContenderId;
  /** Make its image at the path. @throws BenchmarkFailure where it can not */
  prepare(image: string, needs: ImageNeeds): Promise<void>;
}

export interface ImageNeeds {
  readonly kind: ImageKind;
  readonly sizeBytes: number;
}

/** Files that images are made from, made when they are first needed. */
export class Sources {
  readonly #workspace: Workspace;
  readonly #files = new Map<string, string>();

  constructor(workspace: Workspace) {
    this.#workspace = workspace;
  }

  /** A raw file, every byte of it written with something. */
  async random(sizeBytes: number): Promise<string> {
    return await this.#made(`random-${sizeBytes}`, async (path) => {
      const args = ['if=/dev/urandom', `of=${path}`, 'bs=1M', `count=${sizeBytes / 2 ** 20}`, 'status=none'];
      await this.#workspace.run('dd', args);
      syncFile(path);
    });
  }

  /** An image with the same content, perhaps with a snapshot that shares all of it. */
  async filled(sizeBytes: number, shared: boolean): Promise<string> {
    return await this.#made(`${shared ? 'shared' : 'filled'}-${sizeBytes}`, async (path) => {
      const raw = await this.random(sizeBytes);
      await this.#workspace.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, path]);
      if (shared) await this.#workspace.run('qemu-img', ['snapshot', '-c', 's1', path]);
      syncFile(path);
    });
  }

  /** Whatever was made goes. */
  async remove(): Promise<void> {
    if (this.#files.size > 0) await this.#workspace.run('rm', ['-f', ...this.#files.values()]);
    this.#files.clear();
  }

  async #made(name: string, make: (path: string) => Promise<void>): Promise<string> {
    const known = this.#files.get(name);
    if (known !== undefined) return known;
    const path = this.#workspace.path(name);
    await make(path);
    this.#files.set(name, path);
    return path;
  }
}

/** @param command ours */
export function benefitContenders(
  workspace: Workspace,
  sources: Sources,
  command: string,
): BenefitContender[] {
  const ours = (
    id: ContenderId,
    name: string,
    createOptions: readonly string[],
    adopt: (image: string) => Promise<void>,
  ): BenefitContender => ({
    id,
    name,
    server: (image, socket) => ({ command, args: ['serve', '-t', '-k', socket, image] }),
    prepare: (image, needs) =>
      prepareQcow2(workspace, sources, image, needs, [command, 'create', '-q', ...createOptions], adopt),
  });
  const qemu = (id: ContenderId, name: string, createOptions: readonly string[]): BenefitContender => ({
    id,
    name,
    server: qemuServer('qcow2'),
    prepare: (image, needs) =>
      prepareQcow2(
        workspace,
        sources,
        image,
        needs,
        ['qemu-img', 'create', '-q', ...createOptions],
        createOptions.length > 0 ? makeLazy : async () => {},
      ),
  });
  const makeLazy = async (image: string): Promise<void> => {
    await workspace.run('qemu-img', ['amend', '-f', 'qcow2', '-o', 'lazy_refcounts=on', image]);
  };
  return [
    ours('v1', 'serve, journal v1', ['-o', 'journal=on'], async (image) => {
      await workspace.run(command, ['journal', 'enable', image]);
    }),
    ours('draft-2013', 'serve, journal draft-2013', ['-o', 'journal=draft-2013'], async (image) => {
      await workspace.run(command, ['journal', 'enable', '--profile', 'draft-2013', image]);
    }),
    ours('ordered', 'serve, no journal', [], async () => {}),
    ours('lazy', 'serve, lazy refcounts', ['-o', 'lazy_refcounts=on'], makeLazy),
    qemu('qemu', 'qemu-nbd, qcow2', []),
    qemu('qemu-lazy', 'qemu-nbd, lazy refcounts', ['-o', 'lazy_refcounts=on']),
    {
      id: 'raw',
      name: 'qemu-nbd, raw',
      server: qemuServer('raw'),
      prepare: async (image, { kind, sizeBytes }) => {
        if (kind === 'filled' || kind === 'shared') {
          copyFileSync(await sources.random(sizeBytes), image);
        } else {
          writeFileSync(image, '');
          truncateSync(image, sizeBytes);
        }
      },
    },
  ];
}

function qemuServer(format: string): Contender['server'] {
  return (image, socket) => ({ command: 'qemu-nbd', args: ['-t', '-f', format, '-k', socket, image] });
}

async function prepareQcow2(
  workspace: Workspace,
  sources: Sources,
  image: string,
  { kind, sizeBytes }: ImageNeeds,
  [program = '', ...create]: readonly string[],
  adopt: (image: string) => Promise<void>,
): Promise<void> {
  if (kind === 'filled' || kind === 'shared') {
    copyFileSync(await sources.filled(sizeBytes, kind === 'shared'), image);
    await adopt(image);
    return;
  }
  const backing = kind === 'overlay' ? ['-b', await sources.random(sizeBytes), '-F', 'raw'] : [];
  await workspace.run(program, [...create, '-f', 'qcow2', ...backing, image, `${sizeBytes}`]);
}
