import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsonText } from './json-text.ts';

describe('jsonText', () => {
  it('indents by four, and gives empty lists two lines', () => {
    expect(jsonText({ a: 1, list: [], inner: { b: [true, 'x'] } })).toBe(
      [
        '{',
        '    "a": 1,',
        '    "list": [',
        '    ],',
        '    "inner": {',
        '        "b": [',
        '            true,',
        '            "x"',
        '        ]',
        '    }',
        '}',
      ].join('\n'),
    );
  });

  it('leaves undefined members out and writes bigints in full', () => {
    expect(jsonText({ a: undefined, b: 2n ** 63n })).toBe('{\n    "b": 9223372036854775808\n}');
  });

  it('escapes everything outside ASCII', () => {
    expect(jsonText('é"\\\n\t\u{1f600}')).toBe('"\\u00E9\\"\\\\\\n\\t\\uD83D\\uDE00"');
  });

  it('is JSON', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.string({ unit: 'binary' }), fc.integer(), fc.boolean())), (value) => {
        expect(JSON.parse(jsonText(value))).toEqual(value);
      }),
    );
  });
});
