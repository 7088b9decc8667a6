/**
 * The rules of QEMU's `blkdebug`: which requests fail, and how. From a file of sections (`[inject-error]`, `[set-state]`) or from options
 * (`inject-error.0.event`). An event is a point in an image's life that the driver names with its requests; those that this driver does not
 * tell apart are refused by name, since a rule that never strikes would look like a test that passes.
 */
import type { IoEvent } from '@qcow2/block-device';
import { CommandFailure } from './failures.ts';
import type { OptionElement } from './option-list.ts';

/** Kinds of requests, in QEMU's words. */
export type IoKind = 'read' | 'write' | 'write-zeroes' | 'discard' | 'flush' | 'block-status';

export interface InjectRule {
  readonly event: string;
  /** It counts in this state only; 0: in any. */
  readonly state: number;
  readonly errno: number;
  /** Only what touches this byte; undefined: whatever. */
  readonly hostOffset: number | undefined;
  /** The first request alone. */
  readonly once: boolean;
  readonly kinds: ReadonlySet<IoKind>;
}

export interface StateRule {
  readonly event: string;
  readonly state: number;
  readonly newState: number;
}

export interface BlkdebugRules {
  readonly inject: readonly InjectRule[];
  readonly states: readonly StateRule[];
}

const kinds: readonly IoKind[] = ['read', 'write', 'write-zeroes', 'discard', 'flush', 'block-status'];
/** What a rule is about that does not say. */
const usualKinds: ReadonlySet<IoKind> = new Set(kinds.filter((kind) => kind !== 'block-status'));

/** Events of the driver that have QEMU's names. `none` comes once, when the device is opened. */
const sameEvents: readonly IoEvent[] = [
  'l1_grow_write_table',
  'l2_load',
  'l2_update',
  'l2_alloc_write',
  'refblock_load',
  'refblock_update',
  'refblock_alloc_write',
  'reftable_load',
  'reftable_update',
  'reftable_grow',
  'cow_write',
  'read_compressed',
  'write_compressed',
];
const raisedEvents = new Set<string>(['none', 'read_aio', 'write_aio', 'flush_to_disk', ...sameEvents]);

/** What QEMU has beyond those. */
const otherEvents = new Set(
  (
    'l1_update l1_grow_alloc_table l1_grow_activate_table l2_update_compressed l2_alloc_cow_read cow_read read_backing_aio vmstate_load ' +
    'vmstate_save refblock_update_part refblock_alloc refblock_alloc_hookup refblock_alloc_write_blocks refblock_alloc_write_table ' +
    'refblock_alloc_switch_table cluster_alloc cluster_alloc_bytes cluster_free flush_to_os pwritev_rmw_head pwritev_rmw_after_head ' +
    'pwritev_rmw_tail pwritev_rmw_after_tail pwritev pwritev_zero pwritev_done empty_image_prepare l1_shrink_write_table ' +
    'l1_shrink_free_l2_clusters cor_write cluster_alloc_space'
  ).split(' '),
);

/**
 * QEMU's name of what a request comes with; undefined where it has none.
 * @param isRaw requests without a name are a raw disk's data, and not an image's header
 */
export function eventOf(kind: IoKind, event: IoEvent | undefined, isRaw: boolean): string | undefined {
  if (kind === 'flush') return 'flush_to_disk';
  const isData = event === undefined && isRaw;
  if (kind === 'read' && (isData || event === 'read_data')) return 'read_aio';
  if (kind === 'write' && (isData || event === 'write_data')) return 'write_aio';
  return event;
}

type Section = 'inject-error' | 'set-state';

const sectionKeys: Readonly<Record<Section, readonly string[]>> = {
  'inject-error': ['event', 'state', 'iotype', 'errno', 'sector', 'once', 'immediately'],
  'set-state': ['event', 'state', 'new_state'],
};

function isSection(name: string): name is Section {
  return name === 'inject-error' || name === 'set-state';
}

/** @throws CommandFailure in QEMU's words for a file that holds no rules */
export function rulesOfConfig(text: string): BlkdebugRules {
  const sections: { readonly section: Section; readonly values: Map<string, string> }[] = [];
  for (const line of text.split('\n').map((one) => one.trim())) {
    if (line === '' || line.startsWith('#')) continue;
    const [, title] = /^\[\s*([^\s\]]+).*\]$/.exec(line) ?? [];
    if (title !== undefined) {
      if (!isSection(title)) throw new CommandFailure(`There is no option group '${title}'`);
      sections.push({ section: title, values: new Map() });
      continue;
    }
    const last = sections.at(-1);
    if (last === undefined) throw new CommandFailure('no group defined');
    const [, key, value] = /^([^\s=]+)\s*=\s*"([^"]*)"$/.exec(line) ?? [];
    if (key === undefined || value === undefined) throw new CommandFailure('parse error');
    addValue(last.values, last.section, key, value);
  }
  return ruled(sections);
}

/** Whether an option is one of a rule: `inject-error.0.errno`. */
export function isRuleOption(name: string): boolean {
  return /^(inject-error|set-state)\.\d+\.\w+$/.test(name);
}

/** @param elements those of which `isRuleOption` is true. @throws CommandFailure */
export function rulesOfOptions(elements: readonly OptionElement[]): BlkdebugRules {
  const byName = new Map<string, { readonly section: Section; readonly values: Map<string, string> }>();
  for (const { name, text } of elements) {
    const [section = '', index = '', key = ''] = name.split('.');
    if (!isSection(section)) continue;
    const rule = byName.get(`${section}.${index}`) ?? { section, values: new Map<string, string>() };
    byName.set(`${section}.${index}`, rule);
    addValue(rule.values, section, key, text);
  }
  return ruled([...byName.values()]);
}

function addValue(values: Map<string, string>, section: Section, key: string, value: string): void {
  if (!sectionKeys[section].includes(key)) throw new CommandFailure(`Invalid parameter '${key}'`);
  values.set(key, value);
}

function ruled(
  sections: readonly { readonly section: Section; readonly values: Map<string, string> }[],
): BlkdebugRules {
  const inject: InjectRule[] = [];
  const states: StateRule[] = [];
  for (const { section, values } of sections) {
    const event = eventNamed(values.get('event'));
    const state = numberOf(values, 'state') ?? 0;
    if (section === 'set-state') states.push({ event, state, newState: numberOf(values, 'new_state') ?? 0 });
    else inject.push(injectRule(event, state, values));
  }
  return { inject, states };
}

const sectorBytes = 512;
const eio = 5;

function injectRule(event: string, state: number, values: ReadonlyMap<string, string>): InjectRule {
  const sector = numberOf(values, 'sector', true) ?? -1;
  // To fail at once or a little later is the same to who waits.
  isOn(values, 'immediately');
  return {
    event,
    state,
    errno: numberOf(values, 'errno') ?? eio,
    hostOffset: sector < 0 ? undefined : sector * sectorBytes,
    once: isOn(values, 'once'),
    kinds: kindsNamed(values.get('iotype')),
  };
}

function eventNamed(name: string | undefined): string {
  if (name === undefined) throw new CommandFailure('Missing event name for rule');
  if (raisedEvents.has(name)) return name;
  throw new CommandFailure(
    otherEvents.has(name)
      ? `the event '${name}' is not told apart from others here`
      : `invalid parameter value: ${name}`,
  );
}

function kindsNamed(name: string | undefined): ReadonlySet<IoKind> {
  if (name === undefined) return usualKinds;
  const kind = kinds.find((one) => one === name);
  if (kind === undefined) throw new CommandFailure(`invalid parameter value: ${name}`);
  return new Set([kind]);
}

function numberOf(values: ReadonlyMap<string, string>, key: string, signed = false): number | undefined {
  const text = values.get(key);
  if (text === undefined) return undefined;
  const value =
    /^(0x[0-9a-f]+|\d+)$/i.test(text) || (signed && /^-\d+$/.test(text)) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new CommandFailure(`Parameter '${key}' expects a number`);
}

function isOn(values: ReadonlyMap<string, string>, key: string): boolean {
  const text = values.get(key) ?? 'off';
  if (['on', 'yes', 'true', 'y'].includes(text)) return true;
  if (['off', 'no', 'false', 'n'].includes(text)) return false;
  throw new CommandFailure(`Parameter '${key}' expects 'on' or 'off'`);
}
