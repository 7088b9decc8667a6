import { describe, expect, it } from 'vitest';
import {
  formattingLine,
  optionsHelp,
  qcow2Options,
  qcow2Settings,
  refuseUnsupported,
} from './create-options.ts';
import { parseOptionList } from './option-list.ts';

const parse = (list: string) => parseOptionList(qcow2Options, list, 'x');
const settings = (list: string) => qcow2Settings(parse(list), 'x');

describe('formattingLine', () => {
  it('shows defaults, and what was given, in the order of the table', () => {
    expect(formattingLine('x', 'qcow2', qcow2Options, parse('size=1G'))).toBe(
      "Formatting 'x', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib " +
        'size=1073741824 lazy_refcounts=off refcount_bits=16\n',
    );
    expect(
      formattingLine('x', 'qcow2', qcow2Options, parse('backing_file=a,,b,size=1k,compat=v3')),
    ).toContain('size=1024 compat=v3 backing_file=a,,b lazy_refcounts');
  });

  it('shows the journal last', () => {
    expect(formattingLine('x', 'qcow2', qcow2Options, parse('journal=on,journal_size=1M,size=1k'))).toMatch(
      /refcount_bits=16 journal=on journal_size=1048576\n$/,
    );
  });
});

describe('qcow2Settings', () => {
  it('has defaults', () => {
    expect(settings('size=1000')).toEqual({
      version: 3,
      clusterBytes: 65536,
      refcountBits: 16,
      compressionType: 'deflate',
      lazyRefcounts: false,
      extendedL2: false,
      preallocation: 'off',
      sizeBytes: 1024,
      journal: false,
    });
  });

  it('asks for a journal', () => {
    expect(settings('size=1G,journal=on').journal).toEqual({ profile: 'v1' });
    expect(settings('size=1G,journal=draft-2013').journal).toEqual({ profile: 'draft-2013' });
    expect(settings('size=1G,journal=on,journal_size=4M,journal_block_size=512').journal).toEqual({
      profile: 'v1',
      sizeBytes: 4194304,
      blockBytes: 512,
    });
    expect(settings('size=1G,journal=off').journal).toBe(false);
  });

  it.each([
    ['journal=on,compat=0.10', 'A journal is only supported with compatibility level 1.1 and above'],
    ['journal_size=1M', "Parameter 'journal_size' needs journal=on"],
    ['journal_block_size=512', "Parameter 'journal_block_size' needs journal=on"],
    ['journal=on,journal_size=2G', 'Journal size must be between 64k and 1G'],
    ['journal=on,journal_size=64k,journal_block_size=32k', 'and hold at least eight blocks'],
    ['journal=on,journal_block_size=3000', 'Journal block size must be a power of two'],
    ['journal=on,journal_block_size=0', 'Journal block size must be a power of two'],
    ['journal=on,journal_block_size=8k,cluster_size=4k', 'between 512 and the cluster size'],
    ['compression_type=lz4', "Parameter 'compression-type' does not accept value 'lz4'"],
    ['compat=0.10,compression_type=zstd', 'Non-zlib compression type is only supported with'],
    ['journal=draft-2013,compression_type=zstd', 'only supported with compression_type=zlib'],
    ['cluster_size=2M,size=8P', 'Sizes of 8 PiB and more are not supported'],
    ['encrypt.format=aes', "images are read and written with 'aes', not made"],
    ['encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=twofish-256', 'is not supported'],
    ['encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=9999999', 'is at most 600000'],
    [
      'encrypt.format=luks,encrypt.key-secret=s,compat=0.10,preallocation=metadata',
      'Preallocation of an encrypted image',
    ],
  ])('refuses %s', (list, message) => {
    expect(() => settings(list)).toThrow(message);
  });
});

describe('options that are not served', () => {
  it.each(['encryption=on', 'nocow=on'])('%s is refused by name', (list) => {
    const name = list.split('=')[0];
    expect(() => refuseUnsupported(qcow2Options, parse(list), 'x')).toThrow(
      `x: Parameter '${name}' is not supported yet`,
    );
  });

  it('may be given the value that asks for nothing', () => {
    const values = parse('extended_l2=off,compression_type=zlib,encryption=off,nocow=off');
    expect(() => refuseUnsupported(qcow2Options, values, 'x')).not.toThrow();
  });

  it('are not listed', () => {
    const help = optionsHelp('qcow2', qcow2Options);
    expect(help).toContain('  cluster_size=<size>    - qcow2 cluster size\n');
    expect(help).toContain('  journal=<str>          - ');
    expect(help).toContain('  encrypt.format=<str>   - ');
    expect(help).toContain('  extended_l2=');
  });
});
