/**
 * Makes the golden vectors with the qemu-img and qemu-io of this machine. Run by hand, with the names of
 * the vectors to make, or none for all:
 *
 *     pnpm --filter @qcow2/conformance vectors [NAME…]
 *
 * Every vector is made in an empty folder of its own; what QEMU says about the image is kept with it.
 * Made again, a vector differs where QEMU wrote a date, a key or a salt; commit only what you meant to.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { StateError } from '@qcow2/spec';
import { findRuns, packRuns } from '../sparse.ts';
import {
  type GuestContent,
  loadManifest,
  type QemuInfo,
  sha256,
  type VectorFile,
  type VectorManifest,
  vectorNames,
  vectorsFolder,
} from '../vector.ts';
import {
  encryptedImage,
  imageName,
  passphrase,
  type Recipe,
  type SourceContent,
  type Step,
  secretObject,
} from './recipe.ts';
import { recipes } from './recipes.ts';

/** Disks up to this size are read whole for their sum. */
const guestLimitBytes = 64 * 1024 * 1024;

interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

main(process.argv.slice(2));

function main(names: readonly string[]): void {
  mkdirSync(vectorsFolder, { recursive: true });
  const madeBy = runTool(tmpdir(), ['qemu-img', '--version']).stdout.split('\n')[0] ?? '';
  for (const recipe of recipes) {
    if (names.length > 0 && !names.includes(recipe.name)) continue;
    const folder = mkdtempSync(join(tmpdir(), 'qcow2-vector-'));
    try {
      const manifest = makeVector(recipe, folder, madeBy);
      const size = statSync(join(vectorsFolder, `${recipe.name}.bin`)).size;
      process.stdout.write(`${recipe.name}: ${manifest.files[0]?.sizeBytes} bytes, ${size} stored\n`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
  writeFileSync(join(vectorsFolder, 'README.md'), provenance());
}

function makeVector(recipe: Recipe, folder: string, madeBy: string): VectorManifest {
  const commands = recipe.steps.map((step) => perform(step, folder));
  const files: VectorFile[] = [];
  const packed: Uint8Array[] = [];
  for (const { name, role } of [{ name: imageName, role: 'image' as const }, ...(recipe.companions ?? [])]) {
    const bytes = readFileSync(join(folder, name));
    const runs = findRuns(bytes);
    files.push({ name, role, sizeBytes: bytes.length, sha256: sha256(bytes), runs });
    packed.push(packRuns(bytes, runs));
  }
  const payload = Buffer.concat(packed);
  const deflated = deflateSync(payload, { level: 9 });
  const manifest: VectorManifest = {
    name: recipe.name,
    why: recipe.why,
    madeBy,
    commands,
    ...(recipe.encrypted ? { passphrase } : {}),
    payload: { sha256: sha256(deflated), inflatedBytes: payload.length },
    files,
    ...askQemu(recipe, folder),
  };
  writeFileSync(join(vectorsFolder, `${recipe.name}.bin`), deflated);
  writeFileSync(join(vectorsFolder, `${recipe.name}.json`), manifestText(manifest));
  return manifest;
}

/** Do the step; returns it as a line of shell. */
function perform(step: Step, folder: string): string {
  const file = step.kind === 'run' ? '' : join(folder, step.file);
  switch (step.kind) {
    case 'run': {
      // QEMU times its key derivation, and gives up on a busy machine; hence more than one attempt.
      let outcome = runTool(folder, step.argv);
      for (let i = 0; i < 5 && isUnexpected(outcome, step); i++) outcome = runTool(folder, step.argv);
      if (isUnexpected(outcome, step)) {
        throw new StateError('INVALID_ARGUMENT', `${shellLine(step.argv)}: ${outcome.stderr}`);
      }
      return shellLine(step.argv);
    }
    case 'make':
      writeFileSync(file, sourceBytes(step.content, step.lengthBytes));
      return `# ${step.file}: ${step.lengthBytes} bytes of ${step.content}`;
    case 'patch': {
      const bytes = readFileSync(file);
      bytes.set(Buffer.from(step.hex, 'hex'), step.offset);
      writeFileSync(file, bytes);
      return `# ${step.file}: ${step.hex} written at byte ${step.offset}`;
    }
  }
}

function isUnexpected(outcome: Outcome, step: Step & { kind: 'run' }): boolean {
  return (outcome.exitCode !== 0) !== (step.aborts === true);
}

function askQemu(recipe: Recipe, folder: string): Pick<VectorManifest, 'qemu' | 'guest' | 'guestOfSnapshot'> {
  const image = recipe.encrypted
    ? [...secretObject, '--image-opts', encryptedImage]
    : ['-f', 'qcow2', imageName];
  const ask = (...argv: string[]): Outcome =>
    runTool(folder, ['qemu-img', ...argv, '--output=json', ...image]);
  const { 'actual-size': _, filename: __, ...info } = JSON.parse(ask('info').stdout);
  const check = ask('check');
  const { filename: ___, format: ____, ...checked } = JSON.parse(check.stdout);
  const map = JSON.parse(ask('map').stdout);
  const qemu = { info, map, check: { exitCode: check.exitCode, ...checked } } as VectorManifest['qemu'];
  return { qemu, ...readGuests(folder, image, info) };
}

function readGuests(
  folder: string,
  image: readonly string[],
  info: QemuInfo,
): Pick<VectorManifest, 'guest' | 'guestOfSnapshot'> {
  if (info['virtual-size'] > guestLimitBytes) return {};
  const guest = readGuest(folder, image);
  const snapshots = (info.snapshots ?? []).map(
    ({ id }) => [id, readGuest(folder, ['-l', `snapshot.id=${id}`, ...image])] as const,
  );
  return snapshots.length === 0 ? { guest } : { guest, guestOfSnapshot: Object.fromEntries(snapshots) };
}

function readGuest(folder: string, image: readonly string[]): GuestContent {
  const raw = join(folder, 'guest.raw');
  const { exitCode } = runTool(folder, ['qemu-img', 'convert', '-O', 'raw', ...image, raw]);
  if (exitCode !== 0)
    throw new StateError('INVALID_ARGUMENT', 'qemu-img can not read the image that it made');
  const bytes = readFileSync(raw);
  return { sizeBytes: bytes.length, sha256: sha256(bytes) };
}

function runTool(folder: string, argv: readonly string[]): Outcome {
  const [command = '', ...rest] = argv;
  const { status, stdout, stderr, error } = spawnSync(command, rest, {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (error !== undefined)
    throw new StateError('INVALID_ARGUMENT', `${command} does not run here`, {}, error);
  return { exitCode: status ?? 128, stdout, stderr };
}

function sourceBytes(content: SourceContent, lengthBytes: number): Uint8Array {
  if (content === 'noise') return noise(lengthBytes);
  if (content !== 'text') return new Uint8Array(lengthBytes).fill(Number.parseInt(content.slice(5), 16));
  let text = '';
  for (let line = 0; text.length < lengthBytes; line++) text += `line ${line % 97} of what the guest wrote\n`;
  return Buffer.from(text, 'latin1').subarray(0, lengthBytes);
}

/** xorshift32 from a fixed seed: the same noise every time. */
function noise(lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  let state = 0x9e3779b9;
  for (let i = 0; i < lengthBytes; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state & 0xff;
  }
  return bytes;
}

function shellLine(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

/** JSON with the lists of runs and of extents one item to a line. */
function manifestText(manifest: VectorManifest): string {
  const text = JSON.stringify(manifest, null, 2);
  const runs = text.replaceAll(/\[\n\s+(\d+),\n\s+(\d+)\n\s+\]/g, '[$1, $2]');
  return `${runs.replaceAll(/\{\n\s+"start": [^}]*\}/g, (extent) => extent.replaceAll(/\n\s+/g, ' '))}\n`;
}

/** vectors/README.md: what each vector is, what made it, and the sums of its files. */
function provenance(): string {
  const known = new Set(recipes.map((recipe) => recipe.name));
  const manifests = vectorNames()
    .filter((name) => known.has(name))
    .map(loadManifest);
  const order = new Map(recipes.map((recipe, index) => [recipe.name, index]));
  manifests.sort((a, b) => (order.get(a.name) ?? 0) - (order.get(b.name) ?? 0));
  const sections = manifests.map(describeVector);
  const tools = [...new Set(manifests.map((manifest) => manifest.madeBy))].join('; ');
  return `${readmeHead(manifests.length, tools)}\n${sections.join('\n')}`;
}

function describeVector(manifest: VectorManifest): string {
  const binary = join(vectorsFolder, `${manifest.name}.bin`);
  const stored = existsSync(binary) ? statSync(binary).size : 0;
  const sums = manifest.files.map(
    (file) => `- \`${file.name}\`, ${file.sizeBytes} bytes: \`${file.sha256}\``,
  );
  return [
    `## ${manifest.name}`,
    '',
    `${manifest.why[0]?.toUpperCase()}${manifest.why.slice(1)}.`,
    '',
    '```sh',
    ...manifest.commands,
    '```',
    '',
    ...sums,
    `- \`${manifest.name}.bin\`, ${stored} bytes: \`${manifest.payload.sha256}\``,
    '',
  ].join('\n');
}

function readmeHead(count: number, tools: string): string {
  return `# Golden vectors

${count} images made by QEMU, not by us: what our codecs are held against. This page is written by \`make-vectors.ts\`.

Made by: ${tools}.

Each vector is a manifest \`NAME.json\` and a payload \`NAME.bin\`. The manifest holds the commands, the sizes
and SHA-256 sums of the whole files, which runs of them are not zero, and what \`qemu-img info\`, \`map\` and
\`check\` said when the image was made; also the SHA-256 of the disk as the guest sees it, by \`qemu-img convert\`.
The payload is the runs of all the vector's files, one after the other, deflated (zlib). Every file is stored whole: no
vector is cut down to its tables. \`loadVector(name)\` puts the files together again and verifies the sums.

Lines that begin with \`#\` are steps of ours: a source file for a command to read (\`text\`: numbered lines; \`noise\`: bytes that do not
deflate), or bytes of the image changed by hand to see what QEMU does about it. Commands that end in \`abort\`, and the
one of \`corrupt-bit\`, fail, and are meant to. Encrypted images have the passphrase \`golden\`.
`;
}
