import { describe, expect, it } from 'vitest';
import type { ImageFacts, Qcow2Facts } from './image-facts.ts';
import { imageJson, imageText } from './image-report.ts';
import { jsonText } from './json-text.ts';

const qcow2: Qcow2Facts = {
  version: 3,
  clusterBytes: 65536,
  compressionType: 'zlib',
  lazyRefcounts: false,
  refcountBits: 16,
  corrupt: false,
  extendedL2: false,
  dirty: false,
  snapshots: [],
  bitmaps: [],
  journal: {
    version: 1,
    profile: 'v1',
    state: 'dirty',
    hostOffset: 327680,
    lengthBytes: 4194304,
    blockBytes: 4096,
    ringBytes: 4186112,
  },
};
const image: ImageFacts = {
  path: 'j.qcow2',
  format: 'qcow2',
  virtualSizeBytes: 1048576,
  diskBytes: 4096,
  qcow2,
};

describe('the journal in the report', () => {
  it('stands last in the format specific text', () => {
    expect(imageText(image)).toBe(
      [
        'image: j.qcow2',
        'file format: qcow2',
        'virtual size: 1 MiB (1048576 bytes)',
        'disk size: 4 KiB',
        'cluster_size: 65536',
        'Format specific information:',
        '    compat: 1.1',
        '    compression type: zlib',
        '    lazy refcounts: false',
        '    refcount bits: 16',
        '    corrupt: false',
        '    extended l2: false',
        '    journal:',
        '        version: 1',
        '        profile: v1',
        '        state: dirty',
        '        host offset: 327680',
        '        size: 4194304',
        '        block size: 4096',
        '        ring size: 4186112',
        '',
      ].join('\n'),
    );
  });

  it('is an object of the format specific data', () => {
    const report = JSON.parse(jsonText(imageJson(image)));
    expect(report['format-specific'].data.journal).toEqual({
      version: 1,
      profile: 'v1',
      state: 'dirty',
      'host-offset': 327680,
      size: 4194304,
      'block-size': 4096,
      'ring-size': 4186112,
    });
    expect(Object.keys(report['format-specific'].data).at(-1)).toBe('journal');
  });
});

describe('snapshots', () => {
  it('stand in columns that a long name pushes aside', () => {
    const snapshot = {
      id: '1',
      name: 'a name of more than sixteen letters',
      vmStateBytes: 1536,
      dateSeconds: 0,
      dateNanoseconds: 0,
      vmClockNanoseconds: 3_723_004_999_999n,
      instructionCount: undefined,
    };
    const text = imageText({ ...image, qcow2: { ...qcow2, snapshots: [snapshot] } });
    expect(text).toMatch(/^1 {9}a name of more than sixteen letters {2}1.5 KiB .{19} 01:02:03\.004 {11}$/m);
    expect(imageJson({ ...image, qcow2: { ...qcow2, snapshots: [snapshot] } }).snapshots).toEqual([
      expect.objectContaining({ 'vm-clock-sec': 3723n, 'vm-clock-nsec': 4_999_999n, icount: undefined }),
    ]);
  });
});
