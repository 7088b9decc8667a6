import { describe, expect, it } from 'vitest';
import { systemText } from './system-report.ts';

describe('what the system lets the program do', () => {
  it('is everything, where there are native calls', () => {
    const text = systemText(undefined);
    expect(text).toContain('    native calls: yes\n');
    expect(text).not.toMatch(/\bno\b/);
  });

  it('says why not, and what is lost', () => {
    const lines = systemText('switched off by QCOW2_NATIVE').split('\n');
    expect(lines[1]).toBe('    native calls: switched off by QCOW2_NATIVE');
    expect(lines.slice(2, -1).every((line) => /^ {4}[\w ]+: +no \(.+\)$/.test(line))).toBe(true);
    expect(lines.join()).toContain('a discard gives no space back');
  });
});
