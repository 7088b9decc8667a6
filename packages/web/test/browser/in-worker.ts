/**
 * What runs in the browser, in a worker: the suite of all devices over real files of the origin private file system, over blobs, and over a
 * file that this page's server serves by ranges; and an image with a journal that is made, written, abandoned, and
 * recovered in such a file.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { blockDeviceContract, type ContractSubject } from '@qcow2/block-device/contract';
import { checkImage, createImage, openImage } from '@qcow2/driver';
import { openHttp } from '@qcow2/http';
import { BlobDevice, type OpfsFile, openOpfs } from '@qcow2/web';

/** The compiler's library has it for windows only, and without the synchronous access of workers. */
interface Folder {
  getFileHandle(name: string, options: { create: boolean }): Promise<OpfsFile>;
  removeEntry(name: string): Promise<void>;
}

const tests: { readonly title: string; readonly body: () => Promise<void> }[] = [];
const it = (title: string, body: () => Promise<void>): void => {
  tests.push({ title, body });
};

function ok(value: unknown, message = 'not so'): void {
  if (!value) throw new RangeError(message);
}

const assert = {
  ok,
  deepEqual(actual: unknown, expected: unknown, message?: string): void {
    const [a, b] = [actual, expected].map((value) => JSON.stringify(value));
    ok(a === b, `${message ?? 'different'}: ${a}, not ${b}`);
  },
};

const folder = (await navigator.storage.getDirectory()) as unknown as Folder;
let made = 0;

async function newFile(content: Uint8Array = new Uint8Array(0)): Promise<BlockDevice> {
  const device = await openOpfs(await folder.getFileHandle(`disk-${made++}`, { create: true }));
  if (content.length > 0) device.write(0, content);
  return device;
}

const readOnly = {
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
  fua: false,
  extents: false,
  preferredBlockBytes: 4096,
};

const subjects: ContractSubject[] = [
  {
    name: 'OPFS',
    create: async (sizeBytes) => {
      const device = await newFile();
      await device.resize(sizeBytes);
      return device;
    },
    createFrom: newFile,
    capabilities: { ...readOnly, write: true, growable: true, resize: true },
    returns: 'values',
  },
  {
    name: 'blob',
    create: (sizeBytes) => new BlobDevice(new Blob([new Uint8Array(sizeBytes)])),
    createFrom: (bytes) => new BlobDevice(new Blob([bytes.slice()])),
    capabilities: readOnly,
  },
];
for (const subject of subjects)
  blockDeviceContract({ describe: (_title, body) => body(), it, assert }, subject);

it('a file of a server, by ranges', async () => {
  const device = await openHttp(new URL('/served', location.href), { blockBytes: 4096 });
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  ok(device.pinnedBy === 'etag' && bytes.every((byte, i) => byte === i % 251));
});

it('one access at a time', async () => {
  const file = await folder.getFileHandle('alone', { create: true });
  const device = await openOpfs(file);
  const failure = await openOpfs(file).catch((error: unknown) => error);
  ok(failure instanceof Error && 'code' in failure && failure.code === 'IN_USE', String(failure));
  device.close();
});

it('an image with a journal, abandoned and recovered', async () => {
  const file = await folder.getFileHandle('image', { create: true });
  const disk = await openOpfs(file);
  await createImage(disk, { sizeBytes: 2 ** 30, journal: { sizeBytes: 2 ** 20 } });
  const image = await openImage(disk);
  await image.write(123_456, new Uint8Array(5000).fill(7));
  await image.flush();
  image.abandon();
  disk.close();
  const again = await openOpfs(file);
  const recovered = await openImage(again);
  const bytes = new Uint8Array(5002);
  await recovered.read(123_455, bytes);
  ok(bytes.every((byte, i) => byte === (i === 0 || i === 5001 ? 0 : 7)));
  const { corruptions, leaks } = await checkImage(again);
  assert.deepEqual([corruptions, leaks], [0, 0]);
  await recovered.close();
});

const failures: string[] = [];
for (const { title, body } of tests) {
  try {
    await body();
  } catch (error) {
    failures.push(`${title}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
const report = { passed: tests.length - failures.length, failures };
await fetch('/report', { method: 'POST', body: JSON.stringify(report) });
