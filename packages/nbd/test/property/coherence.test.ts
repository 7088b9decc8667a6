/**
 * A device that answers now at once and now later, in any order, behind several connections: what each
 * request read is what was last written there. The batches of a round touch disjoint places, so that the
 * outcome does not depend on an order that the protocol leaves open.
 */
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CMD, requestBytes, TestClient } from '../support/client.ts';
import { patterned, serve } from '../support/fixture.ts';

const slotBytes = 40_000;
const slots = 16;
const sizeBytes = slotBytes * slots;

/** Every call happens at its end: at once, or after as many turns of the event loop as the next number says. */
function wavering(inner: MemoryDevice, turns: readonly number[]): BlockDevice {
  let calls = 0;
  const later = <T>(act: () => T): T | Promise<T> => {
    const wait = turns[calls++ % turns.length] ?? 0;
    if (wait === 0) return act();
    return new Promise((resolve) => {
      const step = (left: number): void => {
        if (left === 0) resolve(act());
        else setImmediate(step, left - 1);
      };
      step(wait);
    });
  };
  return {
    capabilities: inner.capabilities,
    sizeBytes,
    read: (offset, into) => {
      into.fill(0xee); // noise until it is really read
      return later(() => inner.read(offset, into));
    },
    write: (offset, bytes) => later(() => inner.write(offset, bytes)),
    flush: () => later(() => inner.flush()),
    discard: () => {},
    writeZeroes: (offset, length) => later(() => inner.writeZeroes(offset, length)),
    extents: (offset, length) => inner.extents(offset, length),
    resize: () => {},
    close: () => {},
  };
}

const step = fc.record({
  kind: fc.constantFrom('read' as const, 'write' as const, 'zero' as const),
  from: fc.nat(slotBytes - 1),
  lengthBytes: fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: slotBytes })),
  seed: fc.nat(1000),
  client: fc.nat(2),
});
const round = fc.array(step, { minLength: slots, maxLength: slots });

test('every read returns what was last written, through any connection', async () => {
  const device = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
  await fc.assert(
    fc.asyncProperty(
      fc.array(round, { minLength: 1, maxLength: 4 }),
      fc.array(fc.nat(4), { minLength: 1, maxLength: 20 }),
      fc.boolean(),
      async (rounds, turns, structured) => {
        device.writeZeroes(0, sizeBytes);
        const model = Buffer.alloc(sizeBytes);
        const { address, server } = await serve({ exports: [{ name: '', device: wavering(device, turns) }] });
        const clients = await Promise.all([0, 1, 2].map(() => TestClient.open(address, '', structured)));
        for (const steps of rounds) {
          const expected = clients.map(() => new Map<bigint, Buffer | undefined>());
          for (const [slot, { kind, from, seed, client, lengthBytes }] of steps.entries()) {
            const offset = slot * slotBytes + from;
            const length = Math.min(lengthBytes, slotBytes - from);
            const cookie = BigInt(slot);
            const type = { read: CMD.READ, write: CMD.WRITE, zero: CMD.WRITE_ZEROES }[kind];
            const data = patterned(kind === 'write' ? length : 0, seed);
            if (kind === 'write') data.copy(model, offset);
            else if (kind !== 'read') model.fill(0, offset, offset + length);
            const read = kind === 'read' ? Buffer.from(model.subarray(offset, offset + length)) : undefined;
            expected[client]?.set(cookie, read);
            clients[client]?.send(requestBytes({ type, offset, length, cookie, data }));
          }
          for (const [index, client] of clients.entries()) {
            const answers = expected[index] ?? new Map<bigint, Buffer | undefined>();
            for (let left = answers.size; left > 0; left--) {
              const { cookie, data } = await reply(client, answers, structured);
              expect(data?.equals(answers.get(cookie) ?? Buffer.alloc(0)) ?? true).toBe(true);
              expect(answers.delete(cookie)).toBe(true);
            }
          }
        }
        await Promise.all(clients.map((client) => client.leave()));
        await server.close();
        const held = new Uint8Array(sizeBytes);
        device.read(0, held);
        expect(model.equals(held)).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});

/** The next reply, whatever it is to. */
async function reply(
  client: TestClient,
  answers: ReadonlyMap<bigint, Buffer | undefined>,
  structured: boolean,
): Promise<{ cookie: bigint; data: Buffer | undefined }> {
  const head = await client.peek(16);
  const simple = head.readUInt32BE(0) === 0x67446698;
  if (simple) {
    const cookie = head.readBigUInt64BE(8);
    const wanted = structured ? undefined : answers.get(cookie);
    const { errno, data } = await client.simpleReply(wanted?.length ?? 0);
    expect(errno).toBe(0);
    return { cookie, data: wanted === undefined ? undefined : data };
  }
  const { type, cookie, payload } = await client.chunk();
  expect(type).toBe(1);
  return { cookie, data: payload.subarray(8) };
}
