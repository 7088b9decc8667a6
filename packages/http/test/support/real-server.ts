/** A server of Node's with files in memory: a path for each, ranges, and an ETag. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export class RealServer {
  readonly #files = new Map<string, Uint8Array>();
  readonly #server = createServer((request, response) => {
    const bytes = this.#files.get(request.url ?? '');
    const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    if (bytes === undefined || first === '') {
      response.writeHead(bytes === undefined ? 404 : 200).end(bytes);
    } else if (Number(first) >= bytes.length) {
      response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    } else {
      const end = Math.min(Number(last) + 1, bytes.length);
      const range = `bytes ${first}-${end - 1}/${bytes.length}`;
      response.writeHead(206, { etag: '"fixed"', 'content-range': range });
      response.end(bytes.subarray(Number(first), end));
    }
  });

  /** @returns the URL of a new file */
  async serve(bytes: Uint8Array): Promise<string> {
    const server = this.#server;
    if (!server.listening) await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const path = `/disk-${this.#files.size}`;
    this.#files.set(path, bytes);
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
