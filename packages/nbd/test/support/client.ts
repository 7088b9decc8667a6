/**
 * A small NBD client, written from the protocol document alone and sharing nothing with src, so that an
 * error in a constant there shows here. It sends exactly what a test says, right or wrong.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import type { NbdAddress } from '../../src/index.ts';

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED: 8,
  LIST_META: 9,
  SET_META: 10,
};
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META: 4,
  UNSUP: 0x80000001,
  INVALID: 0x80000003,
  TLS_REQD: 0x80000005,
  UNKNOWN: 0x80000006,
  BLOCK_SIZE_REQD: 0x80000008,
  TOO_BIG: 0x80000009,
};
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
};
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 };
export const E = { PERM: 1, IO: 5, INVAL: 22, NOSPC: 28, OVERFLOW: 75, NOTSUP: 95, SHUTDOWN: 108 };

export interface Chunk {
  readonly done: boolean;
  readonly type: number;
  readonly cookie: bigint;
  readonly payload: Buffer;
}

export interface RequestFields {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly data?: Uint8Array;
  readonly magic?: number;
}

/** The bytes of a request. */
export function requestBytes(fields: RequestFields): Buffer {
  const { type, flags = 0, cookie = 1n, offset = 0, data = new Uint8Array(0), magic = 0x25609513 } = fields;
  const header = Buffer.alloc(28);
  header.writeUInt32BE(magic, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(fields.length ?? data.length, 24);
  return Buffer.concat([header, data]);
}

/** The bytes of an option. */
export function optionBytes(
  type: number,
  data: Uint8Array = new Uint8Array(0),
  length = data.length,
): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT', 0, 'latin1');
  header.writeUInt32BE(type, 8);
  header.writeUInt32BE(length, 12);
  return Buffer.concat([header, data]);
}

/** Data of INFO and GO. */
export function infoData(name: string, types: readonly number[] = []): Buffer {
  const text = Buffer.from(name);
  return Buffer.concat([u32(text.length), text, u16(types.length), ...types.map(u16)]);
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaData(name: string, queries: readonly string[]): Buffer {
  const texts = [name, ...queries].map((text) =>
    Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)]),
  );
  return Buffer.concat([texts[0] as Buffer, u32(queries.length), ...texts.slice(1)]);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export class TestClient {
  readonly socket: Socket;
  /** resolves when the server has ended or reset the connection */
  readonly ended: Promise<void>;
  #pieces: Buffer[] = [];
  #unread = 0;
  #over = false;
  #wake = (): void => {};
  #cookie = 100n;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (piece: Buffer) => {
      this.#pieces.push(piece);
      this.#unread += piece.length;
      this.#wake();
    });
    this.ended = new Promise((resolve) => {
      const over = (): void => {
        this.#over = true;
        this.#wake();
        resolve();
      };
      socket.on('end', over);
      socket.on('error', over);
      socket.on('close', over);
    });
  }

  static connect(address: NbdAddress): Promise<TestClient> {
    return new Promise((resolve, reject) => {
      const socket = connect('path' in address ? { path: address.path } : { ...address }, () => {
        socket.off('error', reject);
        resolve(new TestClient(socket));
      });
      socket.once('error', reject);
    });
  }

  /** This connection with TLS over it, which the server has agreed to; this client is not used any more. */
  async secure(options: ConnectionOptions): Promise<TestClient> {
    this.socket.removeAllListeners('data');
    const socket = connectTls({ ...options, socket: this.socket });
    await once(socket, 'secureConnect');
    return new TestClient(socket);
  }

  /** A client in the transmission phase. */
  static async open(
    address: NbdAddress,
    name = '',
    structured = false,
    allocation = false,
  ): Promise<TestClient> {
    const client = await TestClient.connect(address);
    await client.greet();
    if (structured) await client.option(OPT.STRUCTURED);
    if (allocation) await client.option(OPT.SET_META, metaData(name, ['base:allocation']));
    const replies = await client.option(OPT.GO, infoData(name, [3]));
    assert.equal(replies.at(-1)?.type, REP.ACK, `GO failed: ${replies.at(-1)?.data.toString()}`);
    return client;
  }

  /** Received bytes that no one has read yet. */
  get unread(): number {
    return this.#unread;
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** Exactly `count` bytes; throws where the connection ends before. */
  async read(count: number): Promise<Buffer> {
    const bytes = await this.peek(count);
    this.#pieces[0] = this.#pieces[0]?.subarray(count) ?? bytes;
    this.#unread -= count;
    return bytes;
  }

  /** The same, and they stay to be read. */
  async peek(count: number): Promise<Buffer> {
    while (this.#unread < count) {
      assert(!this.#over, `the server ended after ${this.#unread} of ${count} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const first = this.#pieces[0];
    if (first === undefined || first.length < count) this.#pieces = [Buffer.concat(this.#pieces)];
    return this.#pieces[0]?.subarray(0, count) ?? Buffer.alloc(0);
  }

  /** Take the greeting and send client flags; the greeting's flags. */
  async greet(clientFlags = 3): Promise<number> {
    const greeting = await this.read(18);
    assert.equal(greeting.toString('latin1', 0, 16), 'NBDMAGICIHAVEOPT');
    this.send(u32(clientFlags));
    return greeting.readUInt16BE(16);
  }

  async optionReply(): Promise<{ option: number; type: number; data: Buffer }> {
    const header = await this.read(20);
    assert.equal(header.readBigUInt64BE(0), 0x3e889045565a9n, 'not an option reply');
    const data = await this.read(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** Send an option and take its replies up to the last one. */
  async option(type: number, data?: Uint8Array): Promise<{ option: number; type: number; data: Buffer }[]> {
    this.send(optionBytes(type, data));
    const replies = [];
    for (;;) {
      const reply = await this.optionReply();
      replies.push(reply);
      if (reply.type === REP.ACK || reply.type >= 0x80000000) return replies;
    }
  }

  /** Send a request with a new cookie, and return the cookie. */
  request(fields: RequestFields): bigint {
    const cookie = this.#cookie++;
    this.send(requestBytes({ cookie, ...fields }));
    return fields.cookie ?? cookie;
  }

  async simpleReply(dataBytes = 0): Promise<{ errno: number; cookie: bigint; data: Buffer }> {
    const header = await this.read(16);
    assert.equal(header.readUInt32BE(0), 0x67446698, 'not a simple reply');
    const errno = header.readUInt32BE(4);
    return { errno, cookie: header.readBigUInt64BE(8), data: await this.read(errno === 0 ? dataBytes : 0) };
  }

  async chunk(): Promise<Chunk> {
    const header = await this.read(20);
    assert.equal(header.readUInt32BE(0), 0x668e33ef, 'not a structured reply');
    const payload = await this.read(header.readUInt32BE(16));
    const flags = header.readUInt16BE(4);
    return {
      done: (flags & 1) !== 0,
      type: header.readUInt16BE(6),
      cookie: header.readBigUInt64BE(8),
      payload,
    };
  }

  /** One request and its simple reply's error number. */
  async call(fields: RequestFields): Promise<number> {
    const cookie = this.request(fields);
    const reply = await this.simpleReply();
    assert.equal(reply.cookie, cookie, 'a reply to another request');
    return reply.errno;
  }

  /** Read by a simple reply. */
  async readAt(offset: number, length: number, flags = 0): Promise<Buffer> {
    this.request({ type: CMD.READ, offset, length, flags });
    const { errno, data } = await this.simpleReply(length);
    assert.equal(errno, 0, 'the read failed');
    return data;
  }

  /** Disconnect as the protocol wishes, and wait for the server's end. */
  async leave(): Promise<void> {
    this.send(requestBytes({ type: CMD.DISC }));
    await this.ended;
    this.socket.destroy();
  }
}
