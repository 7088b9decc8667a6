import { expect, test } from 'vitest';
import { nbdUri, parseNbdUri } from './uri.ts';

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
  expect(parseNbdUri(uri)).toEqual({ address, exportName: name, tls: false });
  const parsed = new URL(uri);
  expect(decodeURIComponent(parsed.pathname.replace(/^\//, ''))).toBe(name);
  if ('path' in address) expect(parsed.searchParams.get('socket')).toBe(address.path);
});

test('an IPv6 zone is escaped', () => {
  expect(nbdUri({ host: 'fe80::1%eth0', port: 10809 })).toBe('nbd://[fe80::1%25eth0]');
});

test.each([
  ['nbds://example.com', { address: { host: 'example.com', port: 10809 }, exportName: '', tls: true }],
  ['nbd+tcp://h:1/a%20b', { address: { host: 'h', port: 1 }, exportName: 'a b', tls: false }],
  ['nbds+unix:///?socket=/s', { address: { path: '/s' }, exportName: '', tls: true }],
  ['nbd://[fe80::1%25eth0]', { address: { host: 'fe80::1%eth0', port: 10809 }, exportName: '', tls: false }],
])('reads %s', (uri, named) => {
  expect(parseNbdUri(uri)).toEqual(named);
});

test.each([
  'nbd:',
  'nbd://',
  'nbd:///x',
  'nbd+unix:///x',
  'nbd+unix://h/x?socket=a',
  'nbd+unix:///x?socket=',
  'nbd+unix:///x?path=a',
  'nbd://h?socket=x',
  'nbd://h#x',
  'nbd://u@h/x',
  'nbd://h:x/',
  'nbd+foo://h',
  'nbd://h/%zz',
  'nbd://h/%00',
  `nbd://h/${'x'.repeat(4097)}`,
  'http://h',
])('refuses %s', (uri) => {
  expect(() => parseNbdUri(uri)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
});

test('TLS is a letter more', () => {
  expect(nbdUri({ host: 'example.com', port: 10809 }, 'disk', true)).toBe('nbds://example.com/disk');
  expect(nbdUri({ path: '/s' }, '', true)).toBe('nbds+unix:///?socket=/s');
});
