/**
 * The devices in a real browser: run by hand, with a Chromium that has no window.
 *
 *     node --conditions=qcow2-source packages/web/test/browser/run-in-chromium.ts [chromium-headless-shell]
 *
 * Serves the sources, without their types and with the workspace's names as paths (a worker has no import map), lets the
 * browser run `in-worker.ts`, and prints what that reports. Exit code 0 where everything passed.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { stripTypeScriptTypes } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, normalize, posix } from 'node:path';

const root = join(import.meta.dirname, '../../../..');
const limitMs = 120_000;
const page =
  '<!doctype html><title>devices</title><script type="module">' +
  "const worker = new Worker('/packages/web/test/browser/in-worker.ts', { type: 'module' });" +
  // A worker that can not even begin says so here.
  'worker.onerror = ({ message, filename, lineno }) => fetch("/report", { method: "POST", body: ' +
  'JSON.stringify({ passed: 0, failures: [[message, filename, lineno].join(" ")] }) });' +
  '</script>';
/** What `in-worker.ts` reads by ranges. */
const served = Uint8Array.from({ length: 300_000 }, (_, i) => i % 251);

interface Report {
  readonly passed: number;
  readonly failures: readonly string[];
}

const reported = Promise.withResolvers<Report>();

function source(path: string): string {
  const text = readFileSync(join(root, normalize(path)), 'utf8');
  return stripTypeScriptTypes(text).replace(
    /(from |import\()'@qcow2\/([\w-]+)((?:\/[\w.-]+)*)'/g,
    (_, keyword: string, room: string, entry: string) => `${keyword}'${placeOf(room, entry)}'`,
  );
}

/** Where an entry of a package stands, as its manifest says. */
function placeOf(room: string, entry: string): string {
  const manifest = JSON.parse(readFileSync(join(root, 'packages', room, 'package.json'), 'utf8')) as {
    exports: Record<string, { 'qcow2-source': string }>;
  };
  return posix.join('/packages', room, manifest.exports[`.${entry}`]?.['qcow2-source'] ?? 'missing');
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = request.url ?? '/';
  if (path === '/report') {
    let body = '';
    for await (const chunk of request) body += chunk;
    reported.resolve(JSON.parse(body) as Report);
    response.end();
  } else if (path === '/served') {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const end = Math.min(Number(last) + 1, served.length);
    const range = `bytes ${first}-${end - 1}/${served.length}`;
    response.writeHead(206, { etag: '"1"', 'content-range': range });
    response.end(served.subarray(Number(first), end));
  } else if (path.endsWith('.ts')) {
    response.writeHead(200, { 'content-type': 'text/javascript' }).end(source(path));
  } else {
    response.writeHead(path === '/' ? 200 : 404, { 'content-type': 'text/html' });
    response.end(path === '/' ? page : '');
  }
}

const server = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)));
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const profile = mkdtempSync(join(tmpdir(), 'qcow2-chromium-'));
const browser = spawn(
  process.argv[2] ?? 'chromium-headless-shell',
  [
    '--no-sandbox',
    '--disable-gpu',
    `--user-data-dir=${profile}`,
    '--remote-debugging-port=0',
    `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
  ],
  // A group of its own: what is started may be a script around the browser, and the browser is many processes.
  { stdio: 'ignore', detached: true },
);
browser.once('error', (error) => reported.resolve({ passed: 0, failures: [String(error)] }));
const timer = setTimeout(() => reported.resolve({ passed: 0, failures: ['no report came'] }), limitMs);
const { passed, failures } = await reported.promise;
clearTimeout(timer);

if (browser.pid !== undefined) process.kill(-browser.pid, 'SIGKILL');
server.close();
server.closeAllConnections();
rmSync(profile, { recursive: true, force: true });
for (const failure of failures) console.log(`FAIL ${failure}`);
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length === 0 && passed > 0 ? 0 : 1;
