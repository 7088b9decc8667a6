import { expect, it } from 'vitest';
import { Secrets } from './secrets.ts';
import { tlsAuthorization } from './tls-authorization.ts';

const client = 'C=XX,O=Example,CN=client';
const escaped = client.replaceAll(',', ',,');

it.each([
  [`authz-simple,id=who,identity=${escaped}`, true],
  ['authz-simple,id=who,identity=CN=client', false],
  [`authz-list,id=who,rules.0.match=${escaped},rules.0.policy=allow`, true],
  ['authz-list,id=who,rules.0.match=CN=client,rules.0.policy=allow', false],
  ['authz-list,id=who,rules.0.match=*CN=client,rules.0.policy=allow,rules.0.format=glob', true],
  ['authz-list,id=who,rules.0.match=*CN=client,rules.0.policy=allow', false],
  ['authz-list,id=who,rules.0.match=*CN=?lient,rules.0.policy=allow,rules.0.format=glob', true],
  ['authz-list,id=who,rules.0.match=*CN=[!c]lient,rules.0.policy=allow,rules.0.format=glob', false],
  ['authz-list,id=who,rules.0.match=C.XX*,rules.0.policy=allow,rules.0.format=glob', false],
  [`authz-list,id=who,policy=allow,rules.0.match=${escaped},rules.0.policy=deny`, false],
  [
    `authz-list,id=who,rules.0.match=*,rules.0.policy=deny,rules.0.format=glob,rules.1.match=${escaped},rules.1.policy=allow`,
    false,
  ],
  ['authz-list,id=who,policy=allow', true],
  ['authz-list,id=who', false],
])('%s lets the client in: %s', (object, letIn) => {
  expect(tlsAuthorization('who', new Secrets([object]))(client)).toBe(letIn);
});

it.each([
  ['authz-simple,id=who', "Parameter 'identity' is missing"],
  ['authz-list,id=who,policy=maybe', "Parameter 'policy' does not accept value 'maybe'"],
  ['authz-list,id=who,rules.0.policy=allow', "Parameter 'rules.0.match' is missing"],
  ['authz-list,id=who,rules.0.match=x', "Parameter 'rules.0.policy' is missing"],
  ['authz-list,id=who,rules.1.match=x,rules.1.policy=allow', "Parameter 'rules.0.match' is missing"],
  [
    'authz-list,id=who,rules.0.match=x,rules.0.policy=deny,rules.0.format=pcre',
    "'rules.0.format' does not accept",
  ],
  ['authz-list,id=who,rules.0.match=[,rules.0.policy=deny,rules.0.format=glob', "'[' is not a pattern"],
  ['secret,id=who,data=x', "No authorization with id 'who'"],
  ['authz-list,id=other', "No authorization with id 'who'"],
])('%s is refused', (object, message) => {
  expect(() => tlsAuthorization('who', new Secrets([object]))).toThrow(message);
});
