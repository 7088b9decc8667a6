import { describe, expect, it } from 'vitest';
import { besideImage, localPath } from './file-name.ts';

describe('localPath', () => {
  it('takes file: away and leaves paths alone', () => {
    expect(localPath('file:a b')).toBe('a b');
    expect(localPath('./x:y')).toBe('./x:y');
    expect(localPath('/a/x:y')).toBe('/a/x:y');
  });

  it.each([
    ['nbd:x', "Protocol 'nbd' is not supported"],
    ['json:{}', "Protocol 'json' is not supported"],
    ['foo:x', "Unknown protocol 'foo'"],
  ])('refuses %s', (name, message) => {
    expect(() => localPath(name)).toThrow(message);
  });
});

describe('besideImage', () => {
  it.each([
    ['a.qcow2', 'b', 'b'],
    ['d/a.qcow2', 'b', 'd/b'],
    ['/d/a.qcow2', '../b', '/d/../b'],
    ['d/a.qcow2', '/b', '/b'],
    ['d/a.qcow2', 'nbd://host/b', 'nbd://host/b'],
  ])('from %s, %s is %s', (image, name, path) => {
    expect(besideImage(image, name)).toBe(path);
  });
});
