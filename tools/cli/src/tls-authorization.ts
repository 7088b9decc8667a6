/** `--tls-authz`: which clients of those that TLS believes are let in, by the names in their certificates. */
import { CommandFailure } from './failures.ts';
import type { NamedObject } from './object-list.ts';
import type { Secrets } from './secrets.ts';

export type Authorization = (distinguishedName: string) => boolean;

interface Rule {
  readonly allows: boolean;
  matches(name: string): boolean;
}

/** The rules that an option names. @throws CommandFailure */
export function tlsAuthorization(id: string, secrets: Secrets): Authorization {
  const object = secrets.others.find((one) => one.id === id);
  if (object?.type === 'authz-simple') return oneIdentity(object);
  if (object?.type === 'authz-list') return listOfRules(object);
  throw new CommandFailure(`No authorization with id '${id}'`);
}

function oneIdentity({ properties }: NamedObject): Authorization {
  const identity = properties.get('identity');
  if (identity === undefined) throw new CommandFailure("Parameter 'identity' is missing");
  return (name) => name === identity;
}

/** The first rule that fits decides, and where none does, the list's own policy. */
function listOfRules({ properties }: NamedObject): Authorization {
  const rules: Rule[] = [];
  const given = [...properties.keys()].filter((key) => key.startsWith('rules.'));
  const count = new Set(given.map((key) => key.split('.')[1])).size;
  for (let index = 0; index < count; index++) {
    const of = (key: string): string | undefined => properties.get(`rules.${index}.${key}`);
    const match = of('match');
    if (match === undefined) throw new CommandFailure(`Parameter 'rules.${index}.match' is missing`);
    const pattern = patternOf(match, of('format') ?? 'exact', `rules.${index}.format`);
    const allows = allowing(of('policy'), `rules.${index}.policy`);
    rules.push({ allows, matches: (name) => pattern.test(name) });
  }
  const otherwise = allowing(properties.get('policy') ?? 'deny', 'policy');
  return (name) => rules.find((rule) => rule.matches(name))?.allows ?? otherwise;
}

function allowing(policy: string | undefined, parameter: string): boolean {
  if (policy === undefined) throw new CommandFailure(`Parameter '${parameter}' is missing`);
  if (policy === 'allow' || policy === 'deny') return policy === 'allow';
  throw new CommandFailure(`Parameter '${parameter}' does not accept value '${policy}'`);
}

/** A glob has `*`, `?` and `[…]`. */
function patternOf(match: string, format: string, parameter: string): RegExp {
  const escaped = match.replaceAll(/[.+^${}()|\\]/g, '\\$&');
  if (format === 'exact') return new RegExp(`^${escaped.replaceAll(/[*?[\]]/g, '\\$&')}$`, 's');
  if (format !== 'glob')
    throw new CommandFailure(`Parameter '${parameter}' does not accept value '${format}'`);
  try {
    return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.').replaceAll('[!', '[^')}$`, 's');
  } catch (cause) {
    throw new CommandFailure(`'${match}' is not a pattern`, { cause });
  }
}
