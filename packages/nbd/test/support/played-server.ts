/**
 * A server that says exactly what a test tells it to, right or wrong, written from the protocol document and sharing nothing
 * with src.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { NbdAddress } from '../../src/index.ts';
import { u16, u32 } from './client.ts';

export interface ReceivedRequest {
  readonly type: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: number;
}

/** One connection, as the test plays it. */
export class PlayedConnection {
  readonly socket: Socket;
  #bytes = Buffer.alloc(0);
  #ended = false;
  #wake = (): void => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (piece: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, piece]);
      this.#wake();
    });
    for (const event of ['end', 'error', 'close']) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** Undefined where the client ends before. */
  async take(count: number): Promise<Buffer | undefined> {
    while (this.#bytes.length < count) {
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(count);
    return taken;
  }

  async option(): Promise<{ type: number; data: Buffer } | undefined> {
    const head = await this.take(16);
    if (head === undefined) return undefined;
    const data = await this.take(head.readUInt32BE(12));
    return data === undefined ? undefined : { type: head.readUInt32BE(8), data };
  }

  /** A WRITE's payload is taken too, and forgotten. */
  async request(): Promise<ReceivedRequest | undefined> {
    const head = await this.take(28);
    if (head === undefined) return undefined;
    const request = {
      flags: head.readUInt16BE(4),
      type: head.readUInt16BE(6),
      cookie: head.readBigUInt64BE(8),
      offset: head.readBigUInt64BE(16),
      length: head.readUInt32BE(24),
    };
    if (request.type === 1) await this.take(request.length);
    return request;
  }

  /** Greet, say yes to structured replies and base:allocation, and offer an export. */
  async offer(sizeBytes: number, { structured = true, flags = 0x6d } = {}): Promise<void> {
    this.send(greeting());
    await this.take(4);
    for (let option = await this.option(); option !== undefined; option = await this.option()) {
      const { type } = option;
      if (type === 7) {
        this.send(optionReply(7, 3, Buffer.concat([u16(0), u64(sizeBytes), u16(flags)])), optionReply(7, 1));
        return;
      }
      if (!structured) this.send(optionReply(type, 0x80000001));
      else if (type === 10)
        this.send(
          optionReply(10, 4, Buffer.concat([u32(77), Buffer.from('base:allocation')])),
          optionReply(10, 1),
        );
      else this.send(optionReply(type, 1));
    }
  }
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export function greeting(flags = 3): Buffer {
  return Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(flags)]);
}

export function optionReply(
  option: number,
  type: number,
  data = Buffer.alloc(0),
  length = data.length,
): Buffer {
  return Buffer.concat([u64(0x3e889045565a9n), u32(option), u32(type), u32(length), data]);
}

export function simpleReply(cookie: bigint, errno = 0): Buffer {
  return Buffer.concat([u32(0x67446698), u32(errno), u64(cookie)]);
}

export function chunk(
  cookie: bigint,
  type: number,
  payload = Buffer.alloc(0),
  { done = true, length = payload.length } = {},
): Buffer {
  return Buffer.concat([u32(0x668e33ef), u16(done ? 1 : 0), u16(type), u64(cookie), u32(length), payload]);
}

export function dataChunk(cookie: bigint, offset: number | bigint, data: Uint8Array, done = true): Buffer {
  return chunk(cookie, 1, Buffer.concat([u64(offset), data]), { done });
}

/** Every connection is played by `play`; what it throws ends the connection. */
export async function playServer(play: (connection: PlayedConnection) => Promise<void>): Promise<NbdAddress> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-played-'));
  const path = join(folder, 'socket');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    play(new PlayedConnection(socket)).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { path };
}
