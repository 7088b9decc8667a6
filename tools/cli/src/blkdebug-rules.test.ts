import { describe, expect, it } from 'vitest';
import { eventOf, rulesOfConfig, rulesOfOptions } from './blkdebug-rules.ts';

describe('rules of a file', () => {
  it('are sections with their values', () => {
    const { inject, states } = rulesOfConfig(
      '# what for\n[inject-error]\nevent = "read_aio"\nerrno = "28"\nsector = "0x10"\nonce = "on"\nstate = "2"\nimmediately = "off"\n\n' +
        '[set-state "a"]\n  event = "l2_load"\n  state = "1"\n  new_state = "2"\n[inject-error]\nevent="none"\niotype="discard"\n',
    );
    expect(states).toEqual([{ event: 'l2_load', state: 1, newState: 2 }]);
    expect(inject).toMatchObject([
      { event: 'read_aio', errno: 28, hostOffset: 8192, once: true, state: 2 },
      { event: 'none', errno: 5, hostOffset: undefined, once: false, state: 0, kinds: new Set(['discard']) },
    ]);
    expect([...inject[0]!.kinds]).toEqual(['read', 'write', 'write-zeroes', 'discard', 'flush']);
  });

  it.each([
    ['event = "read_aio"', 'no group defined'],
    ['[foo]', "There is no option group 'foo'"],
    ['[inject-error]', 'Missing event name for rule'],
    ['[inject-error]\nevent = "foo"', 'invalid parameter value: foo'],
    [
      '[inject-error]\nevent = "cluster_alloc"',
      "the event 'cluster_alloc' is not told apart from others here",
    ],
    ['[inject-error]\nevent = "none"\niotype = "foo"', 'invalid parameter value: foo'],
    ['[inject-error]\nfoo = "1"', "Invalid parameter 'foo'"],
    ['[set-state]\nerrno = "1"', "Invalid parameter 'errno'"],
    ['[inject-error]\nevent = "none"\nerrno = "x"', "Parameter 'errno' expects a number"],
    ['[inject-error]\nevent = "none"\nonce = "x"', "Parameter 'once' expects 'on' or 'off'"],
    ['[inject-error]\nevent = none', 'parse error'],
  ])('%j is refused', (text, message) => {
    expect(() => rulesOfConfig(text)).toThrow(message);
  });
});

it('rules of options are told apart by their number', () => {
  const options = {
    'inject-error.0.event': 'read_aio',
    'inject-error.1.event': 'write_aio',
    'inject-error.0.errno': '28',
    'set-state.0.event': 'none',
    'set-state.0.new_state': '3',
  };
  const elements = Object.entries(options).map(([name, text]) => ({ name, text, isShort: false }));
  expect(rulesOfOptions(elements)).toMatchObject({
    inject: [
      { event: 'read_aio', errno: 28 },
      { event: 'write_aio', errno: 5 },
    ],
    states: [{ event: 'none', newState: 3 }],
  });
});

it('requests without a name are the data of a raw disk, and nothing of an image', () => {
  expect(eventOf('read', undefined, true)).toBe('read_aio');
  expect(eventOf('read', undefined, false)).toBe(undefined);
  expect(eventOf('write', 'write_data', false)).toBe('write_aio');
  expect(eventOf('flush', 'flush_metadata', false)).toBe('flush_to_disk');
  expect(eventOf('read', 'l2_load', false)).toBe('l2_load');
  expect(eventOf('discard', undefined, true)).toBe(undefined);
});
