/** STARTTLS by a hand-written client, with keys that are shared beforehand. Certificates are for the tests with real clients. */
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import { loadServerTls, type NbdServerOptions } from '../../src/index.ts';
import { CMD, infoData, OPT, optionBytes, REP, requestBytes, TestClient } from '../support/client.ts';
import { patterned, serve } from '../support/fixture.ts';

const key = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const asAlice = {
  pskCallback: () => ({ identity: 'alice', psk: key }),
  ciphers: 'PSK',
  checkServerIdentity: () => undefined,
} as const;
const sizeBytes = 64 * 1024 * 1024;

/** A client that was greeted, of a server with TLS, and what the server said of violations. */
async function greeted(options: Partial<NbdServerOptions> = {}) {
  const tls = await loadServerTls({ keyOf: (identity) => (identity === 'alice' ? key : undefined) });
  const device = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
  const violations: string[] = [];
  const violated = Promise.withResolvers<void>();
  const { address, server } = await serve({
    exports: [{ name: '', device }],
    tls,
    ...options,
    onViolation: (_client, reason) => {
      violations.push(reason);
      violated.resolve();
    },
  });
  const client = await TestClient.connect(address);
  await client.greet();
  return { client, device, server, violations, violated: violated.promise };
}

test.each([
  ['LIST', OPT.LIST, undefined],
  ['INFO', OPT.INFO, infoData('', [])],
  ['GO', OPT.GO, infoData('', [])],
  ['STRUCTURED_REPLY', OPT.STRUCTURED, undefined],
  ['LIST_META_CONTEXT', OPT.LIST_META, undefined],
  ['an unknown option', 77, undefined],
])('%s in the clear is answered ERR_TLS_REQD', async (_name, type, data) => {
  const { client } = await greeted();
  expect(await client.option(type, data)).toMatchObject([{ option: type, type: REP.TLS_REQD }]);
  // And the connection goes on.
  expect(await client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.ACK }]);
});

test('EXPORT_NAME in the clear ends the connection, ABORT is answered', async () => {
  const one = await greeted();
  one.client.send(optionBytes(OPT.EXPORT_NAME));
  await one.client.ended;
  expect(one.violations).toEqual(['the client chose an export without TLS']);
  const other = await greeted();
  expect(await other.client.option(OPT.ABORT)).toMatchObject([{ type: REP.ACK }]);
  await other.client.ended;
});

test('STARTTLS has no data', async () => {
  const { client } = await greeted();
  expect(await client.option(OPT.STARTTLS, Buffer.from('x'))).toMatchObject([{ type: REP.INVALID }]);
});

test.each([
  ['an option', optionBytes(OPT.GO, infoData('', []))],
  ['a request', requestBytes({ type: CMD.READ, length: 512 })],
  ['a single byte', Buffer.from([0x16])],
])('%s in the clear behind STARTTLS ends the connection, and is not answered', async (_name, behind) => {
  const { client, violations } = await greeted();
  client.send(Buffer.concat([optionBytes(OPT.STARTTLS), behind]));
  await client.ended;
  await expect(client.read(1)).rejects.toThrow('the server ended after 0 of 1 bytes');
  expect(violations).toEqual(['the client sent more in the clear behind STARTTLS']);
});

test('what comes in the clear after the answer is for TLS, which refuses it', async () => {
  const { client, violated, violations } = await greeted();
  expect(await client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.ACK }]);
  client.send(optionBytes(OPT.GO, infoData('', [])));
  await client.ended;
  await violated;
  expect(violations).toEqual([expect.stringMatching(/^TLS: /)]);
});

test('a handshake of TLS that does not come is ended by the time limit, and by the server that closes', async () => {
  const slow = await greeted({ handshakeTimeoutMs: 100 });
  expect(await slow.client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.ACK }]);
  await slow.client.ended;
  expect(slow.violations).toEqual(['the handshake took too long']);
  const closed = await greeted();
  expect(await closed.client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.ACK }]);
  await closed.server.close();
  await closed.client.ended;
  expect(closed.violations).toEqual([]);
});

test.each([
  ['another key', { pskCallback: () => ({ identity: 'alice', psk: Buffer.alloc(16, 1) }) }],
  ['another name', { pskCallback: () => ({ identity: 'bob', psk: key }) }],
  ['no key', { pskCallback: undefined, ciphers: 'DEFAULT', rejectUnauthorized: false }],
])('%s does not get in', async (_name, wrong) => {
  const { client, server, violated } = await greeted();
  await client.option(OPT.STARTTLS);
  await expect(client.secure({ ...asAlice, ...wrong })).rejects.toThrow();
  await violated;
  expect(server.counters().requests.READ).toBe(0);
});

test('with TLS everything is as without, and a second STARTTLS is refused', async () => {
  const { client: plain, device, server, violations } = await greeted({ maxClients: 1 });
  await plain.option(OPT.STARTTLS);
  const client = await plain.secure(asAlice);
  expect(await client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.INVALID }]);
  expect((await client.option(OPT.LIST)).at(-1)).toMatchObject({ type: REP.ACK });
  expect((await client.option(OPT.GO, infoData('', []))).at(-1)).toMatchObject({ type: REP.ACK });
  // Larger than what a socket takes at once, in both directions.
  const data = patterned(8 * 1024 * 1024, 5);
  expect(await client.call({ type: CMD.WRITE, offset: 4096, data, length: data.length })).toBe(0);
  expect((await client.readAt(4096, data.length)).equals(data)).toBe(true);
  const stored = new Uint8Array(data.length);
  device.read(4096, stored);
  expect(data.equals(stored)).toBe(true);
  await client.leave();
  expect(server.counters()).toMatchObject({ bytesWritten: data.length, bytesRead: data.length });
  expect(violations).toEqual([]);
});

test('without TLS STARTTLS is unknown', async () => {
  const { address } = await serve({ exports: [{ name: '', device: new MemoryDevice({ sizeBytes }) }] });
  const client = await TestClient.connect(address);
  await client.greet();
  expect(await client.option(OPT.STARTTLS)).toMatchObject([{ type: REP.UNSUP }]);
});

test('credentials that can not be used are refused when they are loaded', async () => {
  const loading = loadServerTls({ certificate: 'none', key: 'none', authorities: 'none' });
  await expect(loading).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
});
