/** A program: an NBD server of a disk of data that ends without a word at its 30th request. */
import { createServer } from 'node:net';

const server = createServer((socket) => {
  let bytes = Buffer.alloc(0);
  let phase: 'flags' | 'options' | 'requests' = 'flags';
  let requests = 0;
  socket.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]));
  socket.on('data', (piece: Buffer) => {
    bytes = Buffer.concat([bytes, piece]);
    for (let taken = step(); taken > 0; taken = step()) bytes = bytes.subarray(taken);
  });
  socket.on('error', () => undefined);

  /** @returns how many bytes were used */
  function step(): number {
    if (phase === 'flags') return bytes.length < 4 ? 0 : flags();
    if (phase === 'options') return bytes.length < 16 ? 0 : option();
    return bytes.length < 28 ? 0 : request();
  }

  function flags(): number {
    phase = 'options';
    return 4;
  }

  /** Only EXPORT_NAME is known: size, flags, and none of the zeros. */
  function option(): number {
    const [type, length] = [bytes.readUInt32BE(8), bytes.readUInt32BE(12)];
    if (bytes.length < 16 + length) return 0;
    if (type === 1) {
      const reply = Buffer.alloc(10);
      reply.writeBigUInt64BE(64n * 2n ** 20n);
      reply.writeUInt16BE(3, 8);
      socket.write(reply);
      phase = 'requests';
    } else {
      const reply = Buffer.alloc(20);
      reply.writeBigUInt64BE(0x3e889045565a9n);
      reply.writeUInt32BE(type, 8);
      reply.writeUInt32BE(0x80000001, 12);
      socket.write(reply);
    }
    return 16 + length;
  }

  function request(): number {
    requests++;
    if (requests === 30 || bytes.readUInt16BE(6) !== 0) {
      socket.destroy();
      server.close();
      return 0;
    }
    const reply = Buffer.alloc(16 + bytes.readUInt32BE(24), 0x5a);
    reply.writeUInt32BE(0x67446698);
    reply.writeUInt32BE(0, 4);
    bytes.copy(reply, 8, 8, 16);
    socket.write(reply);
    return 28;
  }
});
server.listen(process.argv[2]);
