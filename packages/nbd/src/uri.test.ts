import { expect, test } from 'vitest';
import { nbdUri } from './uri.ts';

test.each([
  [{ host: 'example.com', port: 10809 }, '', 'nbd://example.com'],
  [{ host: 'example.com', port: 10809 }, 'disk', 'nbd://example.com/disk'],
  [{ host: 'example.com', port: 10809 }, '/disk', 'nbd://example.com//disk'],
  [{ host: 'example.com', port: 10810 }, 'hello world', 'nbd://example.com:10810/hello%20world'],
  [{ host: '::1', port: 10810 }, '', 'nbd://[::1]:10810'],
  [{ path: 'nbd.sock' }, 'disk', 'nbd+unix:///disk?socket=nbd.sock'],
  [{ path: '/run/a b/x?y&z' }, '', 'nbd+unix:///?socket=/run/a%20b/x%3Fy%26z'],
  [{ path: '/s' }, 'größe?', 'nbd+unix:///gr%C3%B6%C3%9Fe%3F?socket=/s'],
])('%j, export %j', (address, name, uri) => {
  expect(nbdUri(address, name)).toBe(uri);
  const parsed = new URL(uri);
  expect(decodeURIComponent(parsed.pathname.replace(/^\//, ''))).toBe(name);
  if ('path' in address) expect(parsed.searchParams.get('socket')).toBe(address.path);
});

test('an IPv6 zone is escaped', () => {
  expect(nbdUri({ host: 'fe80::1%eth0', port: 10809 })).toBe('nbd://[fe80::1%25eth0]');
});
