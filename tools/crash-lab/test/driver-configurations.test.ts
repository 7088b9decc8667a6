/** That the product of modes and shapes is there, whole; and that images whose clusters are shared are what they should be. */
import { checkImage, openImage, readImageHeader } from '@qcow2/driver';
import { SeededRandom } from '@qcow2/seeded';
import { incompatibleFeatures } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { defaultCampaign, jobsOf } from '../src/campaign.ts';
import { type DriverConfiguration, exhaustiveConfigurations } from '../src/driver-configurations.ts';
import { DriverSystem } from '../src/driver-system.ts';
import { SectorDevice } from '../src/sector-device.ts';
import { SectorImage } from '../src/sector-image.ts';
import { frozenContent } from '../src/shared-clusters.ts';
import { labSystems } from '../src/systems.ts';
import { alphabet } from '../src/workload.ts';

const modes = ['draft-2013', 'journal', 'ordered', 'lazy'];
const butDraft = [
  '+data',
  '+data+filled',
  '+data+backing',
  '+raw+filled',
  '+raw+unmapped',
  '+bitmaps',
  '+bitmaps+sizes',
  '+bitmaps+far',
  '+repair',
];
const shapes = [
  '',
  '+filled',
  '+backing',
  '+backing+filled',
  '+twins',
  '+snapshot',
  '+long',
  '+l1+long',
  '+l1',
  '+compressed',
  '+snapshots',
  '+rebased',
  '+copies',
  '+places',
  '+places+long',
];

function configurationOf(name: string): DriverConfiguration {
  return exhaustiveConfigurations.find((one) => one.name === name)!;
}

async function created(name: string) {
  const configuration = configurationOf(name);
  const system = new DriverSystem(configuration);
  const device = new SectorDevice(new SectorImage());
  const random = new SeededRandom(1);
  await system.create(device, (into) => random.fill(into));
  return { system, device, configuration };
}

describe('the systems of the lab', () => {
  it('are every mode with every shape, and each is gone through in all lengths', () => {
    const names = labSystems.filter(({ exhaustive }) => exhaustive).map(({ name }) => name);
    for (const mode of modes) for (const shape of shapes) expect(names).toContain(`${mode}${shape}`);
    for (const mode of modes.slice(1))
      for (const shape of butDraft) expect(names).toContain(`${mode}${shape}`);
    expect(new Set(names).size).toBe(names.length);
    const jobs = jobsOf(defaultCampaign).filter(({ kind }) => kind === 'sequences');
    expect(jobs.length).toBe(3 * names.length);
    expect(new Set(labSystems.map(({ mode }) => mode))).toEqual(new Set(modes));
  });

  for (const { name } of exhaustiveConfigurations) {
    it(`${name}: the image is clean, holds what it says, and comes back from its close as it was`, async () => {
      const { system, device } = await created(name);
      expect(await system.check(device)).toMatchObject({ errors: 0, leaks: 0 });
      const start = device.sizeBytes - system.imageFile(device).sizeBytes;
      expect(start > 0).toBe(name.includes('+data') || name.includes('+raw'));
      expect(await checkImage(system.imageFile(device))).toMatchObject({
        corruptions: 0,
        checkErrors: 0,
        leaks: 0,
      });
      const random = new SeededRandom(2);
      const open = await system.open(device, { random: (into) => random.fill(into), readOnly: false });
      const content = new Uint8Array(open.guest.sizeBytes);
      await open.guest.read(0, content);
      expect(Buffer.compare(content, system.initialContent())).toBe(0);
      await open.close();
    });
  }
});

describe('damage', () => {
  it('[REP-001] of each kind is found by a check, and is what a repair puts right whole', async () => {
    for (const [letter, operation] of alphabet(new DriverSystem(configurationOf('ordered+repair')))) {
      if (operation.kind !== 'damage') continue;
      const { system, device } = await created('ordered+repair');
      const { repair } = system;
      await repair!.damage(device, operation.damage);
      const seen = await repair!.look(device);
      const { findings } = await checkImage(device);
      const { header } = await readImageHeader(device);
      const isMarked = (header.incompatibleFeatures & incompatibleFeatures.corrupt) !== 0n;
      expect(findings.length > 0 || isMarked, letter).toBe(true);
      const random = new SeededRandom(3);
      const open = await system.open(device, { random: (into) => random.fill(into), readOnly: false });
      const content = new Uint8Array(open.guest.sizeBytes);
      await open.guest.read(0, content);
      expect(Buffer.compare(content, seen), letter).toBe(0);
      await open.close();
      expect(await system.check(device), letter).toMatchObject({ errors: 0, leaks: 0 });
      expect(await repair!.dangers(device), letter).toEqual([]);
    }
  });
});

describe('shared clusters', () => {
  it('of twins: two guest clusters lead to one host cluster, which counts twice', async () => {
    const { device } = await created('journal+twins');
    const before = device.image.toBytes();
    const image = await openImage(device);
    const cluster = image.clusterBytes;
    await image.write(0, new Uint8Array(cluster).fill(7));
    const right = new Uint8Array(cluster);
    await image.read(cluster, right);
    expect(right.every((byte) => byte === 7)).toBe(false);
    await image.close();
    expect(device.image.toBytes()).not.toEqual(before);
  });

  it('of a snapshot: what it shows stays whatever the guest writes; a change of it is found', async () => {
    const { system, device } = await created('journal+snapshot');
    const image = await openImage(device);
    await image.write(0, new Uint8Array(image.sizeBytes).fill(7));
    await image.close();
    expect(frozenContent(device.image.toBytes())).toEqual(system.initialContent());
    expect((await system.check(device)).errors).toBe(0);
    const bytes = device.image.toBytes();
    const stamp = system.initialContent().subarray(0, 16);
    const at = bytes.findIndex((_, index) => stamp.every((byte, k) => bytes[index + k] === byte));
    expect(at).toBeGreaterThan(0);
    device.image.write(at, Uint8Array.of(1));
    expect((await system.check(device)).errors).toBe(1);
  });
});
