import { errorCodes } from '@qcow2/spec';
import { describe, expect, test } from 'vitest';
import { plantRepository } from '../test/support/planted-repository.ts';
import { checkErrorsPage, renderErrorsPage } from './errors-page.ts';

describe('docs/errors.md', () => {
  test('names every code once, under its class, with its NBD number', () => {
    const page = renderErrorsPage();
    for (const code of Object.keys(errorCodes)) expect(page.split(`| \`${code}\` |`)).toHaveLength(2);
    const [, unsupported] = page.split('## UnsupportedFeatureError');
    expect(unsupported).toContain(
      '| `UNSUPPORTED_OPERATION` | the device can not do this operation | ENOTSUP (95) |',
    );
  });

  test('a page that is missing or old is found', () => {
    expect(checkErrorsPage(plantRepository())).toHaveLength(1);
    expect(checkErrorsPage(plantRepository({ 'docs/errors.md': `${renderErrorsPage()}\n` }))).toHaveLength(1);
    expect(checkErrorsPage(plantRepository({ 'docs/errors.md': renderErrorsPage() }))).toEqual([]);
  });
});
