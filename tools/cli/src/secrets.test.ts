import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Secrets } from './secrets.ts';

const folder = mkdtempSync(join(tmpdir(), 'qcow2-secrets-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, content: string | Uint8Array): string => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
const bytesOf = (object: string) => Buffer.from(new Secrets([object]).bytes('s')).toString('latin1');

describe('--object secret', () => {
  const title = process.title;
  beforeEach(() => {
    process.title = title;
  });

  it('takes text, a file as it stands, and base64', () => {
    expect(bytesOf('secret,id=s,data=abc')).toBe('abc');
    expect(bytesOf('secret,id=s,data=a,,b=c')).toBe('a,b=c');
    expect(bytesOf('qom-type=secret,id=s,data=')).toBe('');
    expect(bytesOf(`secret,id=s,file=${file('plain', 'line\n')}`)).toBe('line\n');
    expect(bytesOf('secret,id=s,data=AP/+,format=base64')).toBe('\x00\xff\xfe');
    expect(bytesOf(`secret,id=s,format=base64,file=${file('coded', 'AP/+\n')}`)).toBe('\x00\xff\xfe');
  });

  it('takes the words off the list of processes', () => {
    void new Secrets(['secret,id=s,data=abc']);
    expect(process.title).toBe('qcow2');
  });

  it.each([
    ['secret,id=s', "Either 'file' or 'data' must be provided"],
    ['secret,data=hunter2', "Parameter 'id' is missing"],
    ['secret', "Parameter 'id' is missing"],
    ['secret,id=s,data=hunter2,file=b', "'file' and 'data' are mutually exclusive"],
    ['secret,id=s,file=/nonexistent/hunter', 'Unable to read /nonexistent/hunter: ENOENT'],
    ['secret,id=1s,data=hunter2', "Parameter 'id' expects an identifier"],
    ['secret,id=s,data=hunter#2,format=base64', 'Base64 data contains invalid characters'],
    ['secret,id=s,data=abc,format=hunter2', "Parameter 'format' does not accept"],
    ['secret,id=s,data=abc,hunter2', 'a comma in a value is doubled'],
    ['secret,id=s,data=abc,hunter2=x', 'a comma in a value is doubled'],
    ['hunter2,id=s,data=abc', "Parameter 'qom-type' does not accept this value"],
    ['data=hunter2,id=s', "Parameter 'qom-type' does not accept this value"],
  ])('refuses %s, and does not repeat it', (object, message) => {
    let text = '';
    try {
      void new Secrets([object]);
    } catch (error) {
      text = String(error);
    }
    expect(text).toContain(message);
    expect(text).not.toMatch(/hunter#?2/);
  });

  it('refuses what is no text, one name twice, and a name that nobody has', () => {
    const raw = file('raw', Uint8Array.of(0xff, 0xfe));
    expect(() => new Secrets([`secret,id=s,file=${raw}`])).toThrow('not valid UTF-8');
    expect(() => new Secrets(['secret,id=s,data=a', 'secret,id=s,data=b'])).toThrow("duplicate property 's'");
    expect(() => new Secrets([]).bytes('s', 'x: ')).toThrow("x: No secret with id 's'");
  });
});
