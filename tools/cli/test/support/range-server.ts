/** A program: an HTTP server of the files of a folder, by ranges. Says its port; notes what was asked for; ends with its input. */
import { readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const folder = process.argv[2]!;

const server = createServer((request, response) => {
  const path = new URL(request.url ?? '/', 'http://localhost').pathname;
  const file = join(folder, path);
  const status = statSync(file, { throwIfNoEntry: false });
  process.stdout.write(`${request.method} ${path}\n`);
  if (status?.isFile() !== true) {
    response.writeHead(404).end();
    return;
  }
  const bytes = readFileSync(file);
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const from = Number(first ?? 0);
  const end = Math.min(bytes.length, Number(last ?? bytes.length) + 1);
  const headers = { etag: `"${status.mtimeMs}"`, 'content-length': end - from };
  if (first === undefined) response.writeHead(200, headers).end(bytes);
  else {
    const range = { 'content-range': `bytes ${from}-${end - 1}/${bytes.length}` };
    response.writeHead(206, { ...headers, ...range }).end(bytes.subarray(from, end));
  }
});

server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object' && address !== null) process.stdout.write(`port ${address.port}\n`);
});
process.stdin.resume().once('end', () => process.exit(0));
