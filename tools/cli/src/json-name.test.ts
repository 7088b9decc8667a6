/** `json:` names, whatever stands in them: each is understood or refused in words, and nothing else comes of it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CommandFailure } from './failures.ts';
import { jsonElements, localFileOfJson } from './json-name.ts';

const node = (): never => {
  throw new CommandFailure('no secrets here');
};

/** What comes of a name, read both ways; anything but an answer or a refusal in words is thrown. */
function outcome(name: string): string {
  const answers: string[] = [];
  for (const read of [() => jsonElements(name), () => localFileOfJson(name, node)]) {
    try {
      answers.push(JSON.stringify(read()) ?? '');
    } catch (error) {
      if (!(error instanceof CommandFailure)) throw error;
      expect(error.message).not.toBe('');
      answers.push('refused');
    }
  }
  return answers.join(' ');
}

const keys = fc.constantFrom(
  'driver',
  'file',
  'filename',
  'file.filename',
  'file.driver',
  'backing',
  'encrypt',
  '__proto__',
);
const words = fc.constantFrom('raw', 'qcow2', 'file', 'x', 'nbd', '');
const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof({ maxDepth: 5 }, words, fc.jsonValue(), fc.dictionary(keys, tie('tree'), { maxKeys: 4 })),
}));

describe('json: names', () => {
  it('of any shape are understood or refused', () => {
    fc.assert(
      fc.property(tree, (value) => {
        outcome(`json:${JSON.stringify(value)}`);
      }),
      { numRuns: 2000 },
    );
  });

  it('that are cut off, or have other characters in them, are understood or refused', () => {
    const sound = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"x"},"encrypt.key-secret":"s"}';
    const change = fc.record({
      at: fc.nat(sound.length),
      text: fc.constantFrom('', '"', '{', '}', '[', ',', ':', '\\', '\u0000', '\ud800', '1e999', 'null'),
      away: fc.nat(3),
    });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        let name = sound;
        for (const { at, text, away } of changes) name = name.slice(0, at) + text + name.slice(at + away);
        outcome(name.startsWith('json:') ? name : `json:${name}`);
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    ['objects in objects', '{"file":', '"x"', '}'],
    ['arrays in arrays', '[', '1', ']'],
    ['arrays in objects', '{"file":[', '1', ']}'],
  ])('that are nested a hundred thousand times are refused: %s', (_what, open, inmost, close) => {
    expect(outcome(`json:${open.repeat(100_000)}${inmost}${close.repeat(100_000)}`)).toBe('refused refused');
    expect(outcome(`json:${open.repeat(100_000)}`)).toBe('refused refused');
  });

  it('say what they say: a key of its own is no way to another object', () => {
    expect(outcome('json:{"__proto__":{"filename":"y"},"file.filename":"x"}')).toContain('refused');
    expect(jsonElements('json:{"__proto__":{"driver":"y"}}').map(({ name }) => name)).toEqual([
      '__proto__.driver',
    ]);
  });
});
