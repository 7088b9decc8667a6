import { describe, expect, it } from 'vitest';
import { backingBytes, encodeBacking, encodeSnapshotList } from '../src/attached-lists.ts';
import { GuestOracle } from '../src/guest-oracle.ts';

const sector = (fill: number): Uint8Array => new Uint8Array(512).fill(fill);

function oracleOf(...fills: number[]): GuestOracle {
  const content = new Uint8Array(512 * fills.length);
  for (const [index, fill] of fills.entries()) content.fill(fill, index * 512, (index + 1) * 512);
  return new GuestOracle(content);
}

function write(oracle: GuestOracle, offset: number, bytes: Uint8Array, durable = false): void {
  oracle.endWrite(oracle.beginWrite(offset, bytes.length, bytes), durable);
}

function flush(oracle: GuestOracle): void {
  oracle.endFlush(oracle.beginFlush());
}

const isAllowed = (oracle: GuestOracle, content: Uint8Array): boolean =>
  oracle.allowed().firstViolation(content) === undefined;

describe('the guest oracle', () => {
  it('allows old and new until a flush, and only the new after it', () => {
    const oracle = oracleOf(1);
    write(oracle, 0, sector(2));
    expect(isAllowed(oracle, sector(1))).toBe(true);
    expect(isAllowed(oracle, sector(2))).toBe(true);
    expect(isAllowed(oracle, sector(3))).toBe(false);
    flush(oracle);
    expect(isAllowed(oracle, sector(1))).toBe(false);
    expect(isAllowed(oracle, sector(2))).toBe(true);
  });

  it('counts a write as possible from its start, and as not flushed when it was under way', () => {
    const oracle = oracleOf(1);
    const token = oracle.beginWrite(0, 512, sector(2));
    expect(isAllowed(oracle, sector(2))).toBe(true);
    const started = oracle.beginFlush();
    oracle.endWrite(token, false);
    oracle.endFlush(started);
    expect(isAllowed(oracle, sector(1))).toBe(true);
    flush(oracle);
    expect(isAllowed(oracle, sector(1))).toBe(false);
  });

  it('makes a FUA write durable by itself, and nothing else', () => {
    const oracle = oracleOf(1, 1);
    write(oracle, 512, sector(2));
    write(oracle, 0, sector(3), true);
    const content = new Uint8Array(1024).fill(3, 0, 512).fill(1, 512);
    expect(isAllowed(oracle, content)).toBe(true);
    expect(isAllowed(oracle, content.fill(1, 0, 512))).toBe(false);
  });

  it('lets writes that overlap in time end up either way, also after a flush', () => {
    const oracle = oracleOf(1);
    const first = oracle.beginWrite(0, 512, sector(2));
    const second = oracle.beginWrite(0, 512, sector(3));
    oracle.endWrite(first, false);
    oracle.endWrite(second, false);
    flush(oracle);
    expect([1, 2, 3].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([false, true, true]);
    // Which of them it is stays open under a later write to a part of the sector.
    write(oracle, 0, new Uint8Array(8).fill(4));
    flush(oracle);
    expect(isAllowed(oracle, sector(2).fill(4, 0, 8))).toBe(true);
    expect(isAllowed(oracle, sector(3).fill(4, 0, 8))).toBe(true);
    expect(isAllowed(oracle, sector(2))).toBe(false);
  });

  it('forgets older writes that were not flushed once a newer one was', () => {
    const oracle = oracleOf(1);
    write(oracle, 0, sector(2));
    write(oracle, 0, sector(3));
    flush(oracle);
    expect([1, 2, 3].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([false, false, true]);
  });

  it('allows a mixture of bytes only while part of a sector was written and not flushed', () => {
    const oracle = oracleOf(1);
    write(oracle, 0, new Uint8Array(100).fill(2));
    write(oracle, 200, new Uint8Array(100).fill(3));
    const second = sector(1).fill(3, 200, 300);
    expect(isAllowed(oracle, second)).toBe(true);
    expect(isAllowed(oracle, sector(1).fill(2, 200, 300))).toBe(false);
    flush(oracle);
    expect(isAllowed(oracle, second)).toBe(false);
    expect(isAllowed(oracle, sector(1).fill(2, 0, 100).fill(3, 200, 300))).toBe(true);
    write(oracle, 0, sector(4));
    expect(isAllowed(oracle, sector(4).fill(1, 400))).toBe(false);
  });

  it('lets a discarded sector be zeros or what it was, until it is written and flushed', () => {
    const oracle = oracleOf(1);
    oracle.endWrite(oracle.beginDiscard(0, 512), false);
    flush(oracle);
    expect([0, 1, 2].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([true, true, false]);
    write(oracle, 0, sector(2));
    flush(oracle);
    expect([0, 1, 2].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([false, false, true]);
  });

  it('leaves open for good what a killed process had not made durable', () => {
    const oracle = oracleOf(1);
    write(oracle, 0, sector(2));
    oracle.kill();
    flush(oracle);
    expect([1, 2, 3].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([true, true, false]);
    write(oracle, 0, sector(3));
    flush(oracle);
    expect([1, 2, 3].map((fill) => isAllowed(oracle, sector(fill)))).toEqual([false, false, true]);
  });

  it('names the first sector that is not as allowed', () => {
    const oracle = oracleOf(1, 1, 1);
    const content = new Uint8Array(3 * 512).fill(1).fill(9, 512);
    expect(oracle.allowed().firstViolation(content)).toMatchObject({ kind: 'content', guestSector: 1 });
  });
});

describe('the size of the disk', () => {
  const grown = (oracle: GuestOracle, before: number, after: number): void =>
    oracle.endGrow(oracle.beginGrow(before * 512, after * 512));

  it('is the old or the new one until a flush, and the new sectors are zeros', () => {
    const oracle = oracleOf(1);
    grown(oracle, 1, 2);
    const larger = new Uint8Array(1024).fill(1, 0, 512);
    expect(isAllowed(oracle, sector(1))).toBe(true);
    expect(isAllowed(oracle, larger)).toBe(true);
    expect(isAllowed(oracle, larger.slice().fill(9, 512))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1536).fill(1, 0, 512))).toBe(false);
    flush(oracle);
    expect(isAllowed(oracle, sector(1))).toBe(false);
    expect(isAllowed(oracle, larger)).toBe(true);
  });

  it('must hold a write that was made durable by itself', () => {
    const oracle = oracleOf(1);
    grown(oracle, 1, 2);
    write(oracle, 512, sector(4), true);
    expect(isAllowed(oracle, sector(1))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512).fill(4, 512))).toBe(true);
  });

  it('begins as zeros again where a kill took the growth along, whatever was written there', () => {
    const oracle = oracleOf(1);
    grown(oracle, 1, 2);
    write(oracle, 512, sector(4));
    oracle.kill();
    grown(oracle, 1, 2);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512).fill(4, 512))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512))).toBe(true);
    expect(isAllowed(oracle, sector(1))).toBe(true);
  });
});

describe('a disk that is replaced', () => {
  it('is the one or the other, size and all, and only the new one when that is done', () => {
    const oracle = oracleOf(1, 1);
    const token = oracle.beginReplace(sector(2));
    const old = new Uint8Array(1024).fill(1);
    expect(isAllowed(oracle, old)).toBe(true);
    expect(isAllowed(oracle, sector(2))).toBe(true);
    oracle.endReplace(token);
    expect(isAllowed(oracle, old)).toBe(false);
    expect(isAllowed(oracle, sector(1))).toBe(false);
    expect(isAllowed(oracle, sector(2))).toBe(true);
    expect(oracle.firstMisread(sector(1))).toBe(0);
  });

  it('needs nothing that was durable behind its end, and grows with zeros', () => {
    const oracle = oracleOf(1, 1);
    write(oracle, 512, sector(4), true);
    oracle.endReplace(oracle.beginReplace(sector(1)));
    flush(oracle);
    expect(isAllowed(oracle, sector(1))).toBe(true);
    oracle.endGrow(oracle.beginGrow(512, 1024));
    flush(oracle);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512).fill(4, 512))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512))).toBe(true);
  });

  it('becomes larger with what it is replaced by', () => {
    const oracle = oracleOf(1);
    oracle.endReplace(oracle.beginReplace(new Uint8Array(1024).fill(5)));
    expect(isAllowed(oracle, new Uint8Array(1024).fill(5))).toBe(true);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(5, 0, 512))).toBe(false);
  });
});

describe('a disk that gets another size with all that was written', () => {
  it('is as large as before or as it is to be, and durable when that is done', () => {
    const oracle = oracleOf(1, 1);
    write(oracle, 0, sector(2));
    write(oracle, 512, sector(3), true);
    const token = oracle.beginResize(1024, 512);
    expect(isAllowed(oracle, sector(1))).toBe(true);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(1, 0, 512).fill(3, 512))).toBe(true);
    oracle.endResize(token, 512);
    expect(isAllowed(oracle, sector(1))).toBe(false);
    expect(isAllowed(oracle, sector(2))).toBe(true);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(2, 0, 512).fill(3, 512))).toBe(false);
    oracle.endResize(oracle.beginResize(512, 1024), 1024);
    expect(isAllowed(oracle, sector(2))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(2, 0, 512).fill(3, 512))).toBe(false);
    expect(isAllowed(oracle, new Uint8Array(1024).fill(2, 0, 512))).toBe(true);
  });
});

describe('what the disk stands on', () => {
  const shown = (named: string, fill: number): Uint8Array => {
    const bytes = new Uint8Array(512 + backingBytes).fill(fill, 0, 512);
    bytes.set(encodeBacking(named), 512);
    return bytes;
  };

  it('[BAK-004, BAK-005] is one of what there may be, with what was written before where it is the new one', () => {
    const oracle = oracleOf(1);
    oracle.allowBacking({ named: 'a (raw)' });
    write(oracle, 0, sector(2));
    oracle.allowBacking(...oracle.backings, { named: 'b (file)', since: oracle.beginFlush() });
    expect(isAllowed(oracle, shown('a (raw)', 1))).toBe(true);
    expect(isAllowed(oracle, shown('a (raw)', 2))).toBe(true);
    expect(isAllowed(oracle, shown('b (file)', 1))).toBe(false);
    expect(isAllowed(oracle, shown('b (file)', 2))).toBe(true);
    expect(oracle.allowed().firstViolation(shown('b (raw)', 2))).toMatchObject({
      kind: 'backing',
      found: 'b (raw)',
      allowed: ['a (raw)', 'b (file)'],
    });
    oracle.allowBacking({ named: 'b (file)' });
    expect(isAllowed(oracle, shown('a (raw)', 2))).toBe(false);
  });
});

describe('snapshots', () => {
  const shown = (...names: string[]): Uint8Array => {
    const bytes = new Uint8Array(1024).fill(1, 0, 512);
    bytes.set(encodeSnapshotList(names), 512);
    return bytes;
  };

  it('are one of the lists that there may be', () => {
    const oracle = oracleOf(1);
    oracle.allowSnapshots([], ['a']);
    expect(isAllowed(oracle, shown())).toBe(true);
    expect(isAllowed(oracle, shown('a'))).toBe(true);
    expect(isAllowed(oracle, shown('b'))).toBe(false);
    oracle.allowSnapshots(['a']);
    expect(oracle.allowed().firstViolation(shown())).toMatchObject({ kind: 'snapshots', found: '' });
    expect(isAllowed(oracle, shown('a, but not its content'))).toBe(false);
  });
});

describe('what a living system shows', () => {
  it('is the newest content, before anything is flushed', () => {
    const oracle = oracleOf(1, 1);
    write(oracle, 512, sector(2));
    expect(oracle.firstMisread(new Uint8Array(1024).fill(1, 0, 512).fill(2, 512))).toBeUndefined();
    expect(oracle.firstMisread(new Uint8Array(1024).fill(1))).toBe(1);
  });

  it('is either of the two where a process was killed in between, and one of them after the next write', () => {
    const oracle = oracleOf(1);
    write(oracle, 0, sector(2));
    oracle.kill();
    expect(oracle.firstMisread(sector(1))).toBeUndefined();
    expect(oracle.firstMisread(sector(2))).toBeUndefined();
    write(oracle, 0, sector(3));
    expect(oracle.firstMisread(sector(3))).toBeUndefined();
    expect(oracle.firstMisread(sector(2))).toBe(0);
  });
});
