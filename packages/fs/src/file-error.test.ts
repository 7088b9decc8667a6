import { Qcow2Error, StateError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type FileOperation, fileError } from './file-error.ts';

const failed = (errno: string) => Object.assign(new RangeError(errno), { code: errno });

describe('fileError', () => {
  const cases: [string, FileOperation, string][] = [
    ['ENOENT', 'open', 'NOT_FOUND'],
    ['ENOTDIR', 'open', 'NOT_FOUND'],
    ['EACCES', 'open', 'ACCESS_DENIED'],
    ['EPERM', 'write', 'ACCESS_DENIED'],
    ['EROFS', 'open', 'ACCESS_DENIED'],
    ['EEXIST', 'open', 'ACCESS_DENIED'],
    ['EBUSY', 'open', 'IN_USE'],
    ['ENOSPC', 'write', 'NO_SPACE'],
    ['EDQUOT', 'write', 'NO_SPACE'],
    ['EFBIG', 'resize', 'NO_SPACE'],
    ['EIO', 'read', 'READ_FAILED'],
    ['EIO', 'write', 'WRITE_FAILED'],
    ['EIO', 'resize', 'WRITE_FAILED'],
    ['EIO', 'flush', 'FLUSH_FAILED'],
    ['ENOSPC', 'flush', 'FLUSH_FAILED'],
    ['EISDIR', 'open', 'INVALID_ARGUMENT'],
    ['ESPIPE', 'read', 'INVALID_ARGUMENT'],
    ['EMFILE', 'open', 'READ_FAILED'],
  ];
  for (const [errno, operation, code] of cases) {
    it(`makes ${code} of ${errno} in ${operation}`, () => {
      const cause = failed(errno);
      const error = fileError(cause, operation, { path: '/disk', offset: 512, lengthBytes: 7 });
      expect(error).toBeInstanceOf(Qcow2Error);
      expect(error).toMatchObject({
        code,
        cause,
        context: { path: '/disk', hostOffset: 512, lengthBytes: 7 },
      });
      expect(error.message).toContain('/disk');
    });
  }

  it('lets errors of ours through, and wraps what is no error at all', () => {
    const ours = new StateError('CLOSED', 'closed');
    expect(fileError(ours, 'read', { path: '/disk' })).toBe(ours);
    expect(fileError('odd', 'read', { path: '/disk' })).toMatchObject({ code: 'READ_FAILED', cause: 'odd' });
  });
});
