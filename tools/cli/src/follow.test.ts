import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parseArguments } from './arguments.ts';
import { followName, followOptions, followPolicy, localFiles } from './follow.ts';

const backing = (name: string) => ({ role: 'backing', name }) as const;
const data = (name: string) => ({ role: 'data', name }) as const;

describe('names of backing files', () => {
  it.each([
    ['base', 'd/base', undefined],
    ['/base', '/base', undefined],
    ['file:x', 'x', undefined],
    ['file:a:b', './a:b', undefined],
    ['json:{"driver":"raw","file":{"driver":"file","filename":"x"}}', 'x', 'raw'],
    ['json:{"driver":"qcow2","file.filename":"x","file.driver":"file"}', 'x', 'qcow2'],
    ['json:{"file.filename":"nbd:x"}', './nbd:x', undefined],
    ['json:{"driver":"file","filename":"x"}', 'x', undefined],
  ])('%s leads to a local file', (name, path, format) => {
    expect(followName(backing(name), 'd/top', localFiles)).toEqual({ path, format });
  });

  it.each([
    ['nbd://host/x', '--allow-remote'],
    ['nbd+unix:///x', '--allow-remote'],
    ['https://host/x', '--allow-remote'],
    ['ssh:x', '--allow-remote'],
    ['blkdebug:x:y', "Protocol 'blkdebug' is not supported"],
    ['foo:x', "Unknown protocol 'foo'"],
    ['json:{"driver":"nbd","host":"x"}', 'more than a local file'],
    ['json:{"driver":"raw","file":{"driver":"https","url":"x"}}', 'more than a local file'],
    ['json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/sda"}}', 'more than a local file'],
    ['json:{"driver":"qcow2","file.filename":"x","data-file.filename":"y"}', "'data-file.filename' is more"],
    ['json:{"driver":"qcow2","file.filename":"x","backing":null}', "'backing' is more"],
    ['json:{"driver":"raw","offset":512,"file.filename":"x"}', "'offset' is more"],
    ['json:{"driver":"blkverify","file.filename":"x"}', 'more than a local file'],
    ['json:{"file.filename":7}', "Invalid parameter type for 'file.filename'"],
    ['json:{"driver":"raw"}', 'A block device must be specified for "file"'],
    ['json:{"driver":"raw","file.driver":"file"}', 'requires a file name'],
    ['json:[]', 'Invalid JSON object given'],
    ['json:{', 'Could not parse the JSON options'],
  ])('%s is not followed', (name, message) => {
    expect(() => followName(backing(name), 'd/top', localFiles)).toThrow(message);
  });

  it('of the network are followed as far as they are served, where that is allowed', () => {
    const policy = { ...localFiles, allowRemote: true };
    expect(followName(backing('nbd:x'), 'd/top', policy).path).toBe('nbd:x');
    expect(() => followName(backing('ftp:x'), 'd/top', policy)).toThrow("Protocol 'ftp' is not supported");
    expect(() => followName(backing('null-co://'), 'd/top', policy)).toThrow('is not supported');
  });
});

describe('names of data files', () => {
  it('are paths beside the image', () => {
    expect(followName(data('x'), 'd/top', localFiles).path).toBe('d/x');
    expect(followName(data('/x'), 'd/top', localFiles).path).toBe('/x');
  });

  it.each([
    'json:{"driver":"file","filename":"/etc/passwd"}',
    'json:{"driver":"nbd","host":"x"}',
    'file:/etc/passwd',
    'nbd://x',
    'foo:x',
    '',
  ])('and nothing else: %s', (name) => {
    for (const policy of [localFiles, { ...localFiles, allowRemote: true }]) {
      expect(() => followName(data(name), 'd/top', policy)).toThrow(/path|does not name/);
    }
  });
});

describe('policies', () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'qcow2-follow-')));
  afterAll(() => rmSync(folder, { recursive: true }));
  const at = (name: string) => join(folder, name);
  mkdirSync(at('in/deep'), { recursive: true });
  mkdirSync(at('in-between'));
  for (const file of ['in/a', 'in/deep/b', 'in-between/c', 'out']) writeFileSync(at(file), '');
  symlinkSync(at('out'), at('in/leads-out'));
  symlinkSync(at('in/a'), at('leads-in'));
  const policy = followPolicy(parseArguments(followOptions, ['--confine', at('in')]));

  it('--untrusted follows nothing', () => {
    const untrusted = followPolicy(parseArguments(followOptions, ['--untrusted', '--allow-remote']));
    for (const reference of [backing('x'), data('x'), backing('nbd:x')]) {
      expect(() => followName(reference, 'top', untrusted)).toThrow('not trusted');
    }
  });

  it.each([
    ['a', 'in/a'],
    ['deep/../a', 'in/a'],
    ['../leads-in', 'in/a'],
    ['deep/b', 'in/deep/b'],
    ['gone', 'in/gone'],
  ])('--confine follows %s, to the file itself', (name, path) => {
    expect(followName(backing(name), at('in/top'), policy).path).toBe(at(path));
    expect(followName(data(name), at('in/top'), policy).path).toBe(at(path));
  });

  it.each(['../out', 'leads-out', '/etc/passwd', '../in-between/c', 'deep', '/dev/zero'])(
    '--confine does not follow %s',
    (name) => {
      expect(() => followName(backing(name), at('in/top'), policy)).toThrow('is not followed');
      const json = `json:{"file.filename":${JSON.stringify(join(at('in'), name))}}`;
      if (!name.startsWith('/')) {
        expect(() => followName(backing(json), at('in/top'), policy)).toThrow('is not followed');
      }
    },
  );

  it('--confine wants a directory', () => {
    for (const name of ['gone', 'out']) {
      expect(() => followPolicy(parseArguments(followOptions, ['--confine', at(name)]))).toThrow(
        'is no directory',
      );
    }
  });
});
