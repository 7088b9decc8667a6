/**
 * Clients that send nonsense: at the handshake, in the transmission, and with an end at any place. Whatever
 * comes, the server serves the next client, lets go of the bad one, and holds on to no memory.
 * The seed is printed with a failure; set NBD_FUZZ_SEED to run it again, NBD_FUZZ_ROUNDS for more rounds.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import {
  CMD,
  infoData,
  metaData,
  OPT,
  optionBytes,
  requestBytes,
  TestClient,
  u32,
} from '../support/client.ts';
import { type Fixture, patterned, serve } from '../support/fixture.ts';

const seed = Number(process.env.NBD_FUZZ_SEED ?? Date.now() & 0xffffff);
const rounds = Number(process.env.NBD_FUZZ_ROUNDS ?? 300);
const sizeBytes = 1024 * 1024;

/** Small and repeatable random numbers (mulberry32). */
class Dice {
  #state: number;
  constructor(start: number) {
    this.#state = start >>> 0;
  }
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
  bytes(lengthBytes: number): Buffer {
    return Buffer.from(Array.from({ length: lengthBytes }, () => this.below(256)));
  }
}

/** Flip, insert or cut some bytes, or leave them as they are. */
function mutate(dice: Dice, bytes: Buffer): Buffer {
  const at = dice.below(bytes.length + 1);
  switch (dice.below(4)) {
    case 0: {
      const flipped = Buffer.from(bytes);
      if (at < flipped.length) flipped[at] = dice.below(256);
      return flipped;
    }
    case 1:
      return Buffer.concat([bytes.subarray(0, at), dice.bytes(dice.below(20)), bytes.subarray(at)]);
    case 2:
      return bytes.subarray(0, at);
    default:
      return bytes;
  }
}

function anyOption(dice: Dice): Buffer {
  const name = dice.pick(['', 'x', 'unknown']);
  const lengthBytes = dice.pick([0, 1, 4, 100, 65_536, 65_537, 0xffffffff]);
  return dice.pick([
    optionBytes(OPT.LIST),
    optionBytes(OPT.STRUCTURED),
    optionBytes(OPT.INFO, infoData(name, [0, 1, 2, 3])),
    optionBytes(OPT.SET_META, metaData(name, ['base:allocation'])),
    optionBytes(OPT.LIST_META, metaData(name, [])),
    optionBytes(OPT.EXPORT_NAME, Buffer.from(name)),
    optionBytes(OPT.GO, infoData(name, [3])),
    optionBytes(dice.below(14), dice.bytes(dice.below(50))),
    optionBytes(dice.below(14), dice.bytes(dice.below(50)), lengthBytes),
  ]);
}

function anyRequest(dice: Dice): Buffer {
  const type = dice.pick([...Object.values(CMD), CMD.READ, CMD.WRITE, CMD.WRITE, 8, 0xffff]);
  const offset = dice.pick([
    0n,
    512n,
    BigInt(dice.below(sizeBytes)),
    BigInt(sizeBytes),
    1n << 63n,
    (1n << 64n) - 1n,
  ]);
  const length = dice.pick([0, 1, 512, dice.below(100_000), sizeBytes, 33_554_432, 33_554_433, 0xffffffff]);
  const flags = dice.pick([0, 0, 0, 1, 2, 4, 8, 16, 0xffff]);
  const payloadBytes = type !== CMD.WRITE ? 0 : dice.pick([length, length, dice.below(2000)]);
  const data = payloadBytes > 200_000 ? Buffer.alloc(0) : patterned(payloadBytes, 1);
  return requestBytes({ type, offset, length, flags, cookie: BigInt(dice.below(1000)), data });
}

async function harass({ address }: Fixture, parts: Buffer[], dice: Dice, polite: boolean): Promise<void> {
  const client = await TestClient.connect(address);
  client.socket.on('error', () => {});
  if (polite) {
    await client.greet();
    if (dice.below(2) === 0) await client.option(OPT.STRUCTURED);
    await client.option(OPT.GO, infoData('', [3]));
  }
  for (const part of parts) {
    client.socket.write(part);
    if (dice.below(3) === 0) await delay(0);
  }
  if (dice.below(2) === 0) {
    client.socket.end();
    await Promise.race([client.ended, delay(20)]);
  }
  client.socket.destroy();
}

async function endures(
  fixture: Fixture,
  dice: Dice,
  make: () => { parts: Buffer[]; polite: boolean },
): Promise<void> {
  const warmUp = Math.floor(rounds / 3);
  let before = 0;
  for (let round = 0; round < rounds; round++) {
    if (round === warmUp) before = process.memoryUsage().arrayBuffers;
    const { parts, polite } = make();
    await harass(fixture, parts, dice, polite);
    if (round % 20 === 0) {
      const client = await TestClient.open(fixture.address);
      const data = patterned(600, round);
      expect(await client.call({ type: CMD.WRITE, offset: 100, data })).toBe(0);
      expect((await client.readAt(100, 600)).equals(data)).toBe(true);
      await client.leave();
    }
  }
  while (fixture.server.counters().connectionsOpen > 0) await delay(5);
  // What is kept is the pool's 64 MiB at most; garbage that waits for its collector comes on top.
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(192 * 1024 * 1024);
}

async function harassed(): Promise<Fixture> {
  const device = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
  return serve({
    exports: [
      { name: '', device },
      { name: 'x', device },
    ],
    handshakeTimeoutMs: 500,
  });
}

test(`nonsense at the handshake (seed ${seed})`, async () => {
  const dice = new Dice(seed);
  await endures(await harassed(), dice, () => {
    const parts = Array.from({ length: dice.below(8) }, () => mutate(dice, anyOption(dice)));
    const flags = dice.pick([u32(3), u32(3), u32(3), u32(1), u32(0), u32(7), dice.bytes(4)]);
    return { parts: [flags, ...parts], polite: false };
  });
});

test(`nonsense in the transmission (seed ${seed})`, async () => {
  const dice = new Dice(seed + 1);
  await endures(await harassed(), dice, () => {
    const parts = Array.from({ length: dice.below(30) }, () => {
      const request = anyRequest(dice);
      return dice.below(4) === 0 ? mutate(dice, request) : request;
    });
    return { parts, polite: true };
  });
});

test(`noise (seed ${seed})`, async () => {
  const dice = new Dice(seed + 2);
  await endures(await harassed(), dice, () => ({
    parts: [dice.bytes(dice.below(3000))],
    polite: dice.below(2) === 0,
  }));
});
