/**
 * `--object TYPE,id=ID,…` as parts: type, id and properties. Which properties there are is the type's own matter. What is said of a wrong
 * object never repeats a value of it: it may be the rest of a secret whose comma was not doubled.
 */
import { CommandFailure } from './failures.ts';
import { elementsOf } from './option-list.ts';

export interface NamedObject {
  readonly type: string;
  readonly id: string;
  /** Without `qom-type` and `id`. */
  readonly properties: ReadonlyMap<string, string>;
}

/** The properties of each type that is known, in QEMU's names. */
const knownProperties: Readonly<Record<string, readonly string[]>> = {
  secret: ['data', 'file', 'format'],
  'tls-creds-x509': ['dir', 'endpoint', 'verify-peer', 'sanity-check', 'passwordid'],
  'tls-creds-psk': ['dir', 'endpoint', 'verify-peer', 'username'],
  'authz-simple': ['identity'],
  'authz-list': ['policy'],
};
const ruleOfList = /^rules\.\d+\.(?:match|policy|format)$/;

/** @param objects what each `--object` said. @throws CommandFailure, also where two have one id */
export function namedObjects(objects: readonly string[]): readonly NamedObject[] {
  const named = objects.map(namedObject);
  const ids = new Set<string>();
  for (const { id } of named) {
    if (ids.has(id)) {
      throw new CommandFailure(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    ids.add(id);
  }
  return named;
}

function namedObject(object: string): NamedObject {
  const elements = elementsOf(object);
  const properties = new Map<string, string>();
  const [first] = elements;
  if (first?.isShort === true) properties.set('qom-type', object.split(',')[0] ?? '');
  const rest = first?.isShort === true ? elements.slice(1) : elements;
  const given = rest.find(({ name }) => name === 'qom-type')?.text;
  const type = properties.get('qom-type') ?? given ?? '';
  const known = knownProperties[type];
  for (const { name, text, isShort } of rest) {
    const isKnown =
      name === 'qom-type' ||
      name === 'id' ||
      (known ?? knownProperties.secret)?.includes(name) === true ||
      (type === 'authz-list' && ruleOfList.test(name));
    if (isShort || !isKnown) {
      throw new CommandFailure('--object has a parameter that is not known; a comma in a value is doubled');
    }
    properties.set(name, text);
  }
  if (known === undefined) {
    // Not repeated: it may be a secret in the wrong place.
    throw new CommandFailure(
      `Parameter 'qom-type' does not accept this value: there are ${Object.keys(knownProperties).join(', ')}`,
    );
  }
  const id = properties.get('id');
  if (id === undefined) throw new CommandFailure("Parameter 'id' is missing");
  if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) {
    throw new CommandFailure(
      "Parameter 'id' expects an identifier\n" +
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    );
  }
  properties.delete('qom-type');
  properties.delete('id');
  return { type, id, properties };
}
