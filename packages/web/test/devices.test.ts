import { describe, expect, it } from 'vitest';
import { BlobDevice, openOpfs } from '../src/index.ts';
import { PlayedFile } from './support/played-opfs.ts';

const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const withCode = (code: string) => expect.objectContaining({ code });

async function opened(sizeBytes = 1000) {
  const file = new PlayedFile(filled(sizeBytes, 9));
  const device = await openOpfs(file);
  file.log.length = 0;
  return { file, device };
}

describe('OpfsDevice', () => {
  it('is alone with its file until it is closed', async () => {
    const { file, device } = await opened();
    await expect(openOpfs(file)).rejects.toThrow(withCode('IN_USE'));
    device.close();
    device.close();
    const again = await openOpfs(file);
    expect(again.sizeBytes).toBe(1000);
  });

  it.each([
    ['NotFoundError', 'NOT_FOUND'],
    ['NotAllowedError', 'ACCESS_DENIED'],
    ['UnknownError', 'READ_FAILED'],
  ])('that can not be opened for a %s is %s', async (name, code) => {
    const createSyncAccessHandle = () => Promise.reject(new DOMException('no', name));
    await expect(openOpfs({ name: 'disk', createSyncAccessHandle })).rejects.toThrow(withCode(code));
  });

  it('does one call for one request, and one flush for a write with FUA', async () => {
    const { file, device } = await opened();
    device.write(10, filled(500, 1));
    device.read(10, new Uint8Array(500));
    device.flush();
    device.write(10, filled(5, 1), { fua: true });
    device.writeZeroes(0, 10, { fua: true });
    const rest = ['write', 'flush', 'write', 'flush'];
    expect(file.log).toEqual(['write', 'read', 'flush', ...rest]);
  });

  it('extends by zeros without writing them', async () => {
    const { file, device } = await opened();
    device.writeZeroes(900, 1_000_000);
    expect(file.log).toEqual(['write', 'truncate']);
    expect(file.bytes).toEqual(new Uint8Array(1_000_900).fill(9, 0, 900));
  });

  it('says when the quota is used up, and what size the file has then', async () => {
    const { file, device } = await opened();
    file.quotaBytes = 2000;
    file.mostBytes = 600;
    expect(() => device.write(0, filled(3000, 1))).toThrow(withCode('NO_SPACE'));
    expect(device.sizeBytes).toBe(file.bytes.length);
    expect(() => device.resize(5000)).toThrow(withCode('NO_SPACE'));
    expect(device.sizeBytes).toBe(file.bytes.length);
    device.write(0, filled(10, 1));
  });

  it('refuses to write after a failed flush, and reads still', async () => {
    const { file, device } = await opened();
    file.before = (call) => {
      if (call === 'flush') throw new DOMException('lost', 'UnknownError');
    };
    device.write(0, filled(10, 1));
    expect(() => device.flush()).toThrow(withCode('FLUSH_FAILED'));
    file.before = () => undefined;
    for (const request of [
      () => device.flush(),
      () => device.write(0, filled(1, 1)),
      () => device.writeZeroes(0, 1),
      () => device.discard(0, 1),
      () => device.resize(1),
    ]) {
      expect(request).toThrow(withCode('FAILED_EARLIER'));
    }
    device.read(0, new Uint8Array(10));
  });

  it('makes failures of calls errors of its own, and does not wait for bytes that never come', async () => {
    const { file, device } = await opened();
    file.mostBytes = 0;
    expect(() => device.read(0, new Uint8Array(1))).toThrow(withCode('SHORT_READ'));
    expect(() => device.write(0, filled(1, 1))).toThrow(withCode('WRITE_FAILED'));
    file.before = (call) => {
      if (call !== 'getSize') throw new DOMException('broken', 'UnknownError');
    };
    expect(() => device.read(0, new Uint8Array(1))).toThrow(withCode('READ_FAILED'));
    expect(() => device.write(0, filled(1, 1))).toThrow(withCode('WRITE_FAILED'));
    expect(() => device.resize(0)).toThrow(withCode('WRITE_FAILED'));
  });

  it('takes no shared memory', async () => {
    const { device } = await opened();
    const shared = new Uint8Array(new SharedArrayBuffer(10));
    expect(() => device.read(0, shared)).toThrow(withCode('INVALID_ARGUMENT'));
    expect(() => device.write(0, shared)).toThrow(withCode('INVALID_ARGUMENT'));
  });
});

describe('BlobDevice', () => {
  const played = (arrayBuffer: () => Promise<ArrayBuffer>) =>
    new BlobDevice(Object.assign(new Blob([filled(100, 1)]), { slice: () => ({ arrayBuffer }) }) as Blob);

  it('is called as its file is', () => {
    expect(new BlobDevice(new File(['x'], 'disk.qcow2')).name).toBe('disk.qcow2');
    expect(new BlobDevice(new Blob(['x'])).name).toBe('blob');
  });

  it.each([
    ['NotReadableError', 'SOURCE_CHANGED'],
    ['NotFoundError', 'SOURCE_CHANGED'],
    ['AbortError', 'READ_FAILED'],
  ])('that the browser refuses with a %s is %s', async (name, code) => {
    const device = played(() => Promise.reject(new DOMException('changed', name)));
    await expect(device.read(0, new Uint8Array(10))).rejects.toThrow(withCode(code));
  });

  it('that brings too little is short', async () => {
    const device = played(() => Promise.resolve(new ArrayBuffer(9)));
    await expect(device.read(0, new Uint8Array(10))).rejects.toThrow(withCode('SHORT_READ'));
  });
});
