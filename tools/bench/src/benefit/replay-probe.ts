/**
 * One measurement of replay in a process of its own, as after a crash: nothing compiled, nothing cached by us.
 *
 *   make FILE SIZE RING WANTED   an image whose log holds at least WANTED bytes that are not in place; ends by SIGKILL
 *   read FILE OFFSET LENGTH      read those bytes of the file, one after the other
 *   open FILE | recover FILE     open the image for reading, or for writing
 *
 * Answers with one line of JSON. The clock runs around the reading or opening alone, not around the start of the process.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { BenchmarkFailure } from '../failure.ts';
import { randomFrom } from './operations.ts';

const pageBytes = 4096;
const chunkBytes = 2 ** 20;

async function make(
  path: string,
  sizeBytes: number,
  ringBytes: number,
  wantedBytes: number,
): Promise<object> {
  const file = openFile(path, { create: 'exclusive' });
  await createImage(file, { sizeBytes, journal: { sizeBytes: ringBytes } });
  const image = await openImage(file, { journal: { writeBackAt: 0.9 } });
  const random = randomFrom(1);
  const page = Uint8Array.from({ length: pageBytes }, (_, i) => (i * 131) % 255);
  const use = () => {
    const status = image.journalStatus();
    if (status?.use === undefined) throw new BenchmarkFailure('the image has no journal');
    return { ...status.use, hostOffset: status.hostOffset };
  };
  let records = 0;
  for (; use().usedBytes < wantedBytes; records++) {
    if (records * pageBytes > 4 * wantedBytes) throw new BenchmarkFailure('the log does not grow');
    const at = Math.floor((random() * sizeBytes) / pageBytes) * pageBytes;
    await image.write(at, page);
    await image.flush();
  }
  const { hostOffset, usedBytes, ringBytes: ring } = use();
  return { hostOffset, usedBytes, ringBytes: ring, records };
}

function read(path: string, offset: number, lengthBytes: number): object {
  const fd = openSync(path, 'r');
  const chunk = new Uint8Array(chunkBytes);
  const began = performance.now();
  let done = 0;
  while (done < lengthBytes) {
    const got = readSync(fd, chunk, 0, Math.min(chunkBytes, lengthBytes - done), offset + done);
    if (got === 0) throw new BenchmarkFailure(`${path} ends at ${offset + done}`);
    done += got;
  }
  const ms = performance.now() - began;
  closeSync(fd);
  return { ms };
}

async function open(path: string, readOnly: boolean): Promise<object> {
  const file = openFile(path, { readOnly });
  const began = performance.now();
  const image = await openImage(file, { readOnly });
  const ms = performance.now() - began;
  const replayed = image.journalStatus()?.replayed;
  await image.close();
  return { ms, records: replayed?.records ?? 0 };
}

const [what = '', path = '', ...numbers] = process.argv.slice(2);
const [first = 0, second = 0, third = 0] = numbers.map(Number);
const answers: Record<string, () => object | Promise<object>> = {
  make: () => make(path, first, second, third),
  read: () => read(path, first, second),
  open: () => open(path, true),
  recover: () => open(path, false),
};
const answer = answers[what];
if (answer === undefined) throw new BenchmarkFailure(`no such measurement: ${what}`);
process.stdout.write(`${JSON.stringify(await answer())}\n`, () => {
  // Nothing is closed, nothing written back.
  if (what === 'make') process.kill(process.pid, 'SIGKILL');
});
