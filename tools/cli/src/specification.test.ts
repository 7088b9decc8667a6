import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseSpec } from '@qcow2/conformance';
import { describe, expect, it } from 'vitest';
import { runHere } from '../test/support/run-here.ts';
import { documents, readClauses } from './specification.ts';

describe('the specification', () => {
  it.each(documents)('%s is read as the conformance package reads it', (document) => {
    const path = new URL(`../../../docs/specs/${document}/SPEC.md`, import.meta.url);
    const { clauses } = parseSpec(document, readFileSync(path, 'utf8'));
    const ours = [...readClauses().values()].filter((clause) => clause.document === document);
    const place = ({ line }: { line: number }) => `${path.href}#L${line}`;
    expect(ours).toEqual(
      clauses.map((clause) => ({
        document,
        id: clause.id,
        level: clause.level,
        text: clause.text,
        link: place(clause),
      })),
    );
  });

  it('has lines where links lead', () => {
    const { link } = readClauses().get('HDR-008')!;
    const [file = '', line] = link.split('#L');
    expect(readFileSync(fileURLToPath(file), 'utf8').split('\n')[Number(line) - 1]).toContain('**HDR-008**');
  });
});

describe('clause', () => {
  const run = (...words: string[]) => runHere(['clause', ...words]);

  it('prints what is asked for, in any case of letters', async () => {
    const { status, out } = await run('hdr-001', 'LUKS-HDR-001');
    expect(status).toBe(0);
    expect(out).toMatch(
      /^HDR-001 \(MUST\)\n {2}The magic is .*\n {2}file:.*SPEC\.md#L\d+\n\nLUKS-HDR-001 \(MUST\)\n/,
    );
  });

  it('prints all that begin alike', async () => {
    const { out } = await run('--output', 'json', 'L2E');
    const found: { clause: string }[] = JSON.parse(out);
    const ids = [...readClauses().keys()].filter((id) => id.startsWith('L2E-'));
    expect(ids.length).toBeGreaterThan(5);
    expect(found.map(({ clause }) => clause)).toEqual(ids);
  });

  it('says which one may have been meant', async () => {
    expect(await run('HDR-999')).toEqual({
      status: 1,
      out: '',
      err: expect.stringMatching(/^qcow2: No clause 'HDR-999'\nDid you mean 'HDR-\d+'\?\n$/),
    });
    expect(await run('XYZZY')).toMatchObject({ status: 1, err: "qcow2: No clause 'XYZZY'\n" });
    expect((await run()).err).toContain('Expecting at least one clause');
  });
});
