/** The tests of the contract for devices that can be written: content, zeroes, requests at once, growth, resizing. */
import { checkExtents, fails, filled, reads, type Suite } from './contract-checks.ts';

export function defineWrites({ assert, sizeBytes, test }: Suite): void {
  test('reads what was written, and nothing else has changed', async (device) => {
    const model = new Uint8Array(sizeBytes);
    const places = [0, 1, 511, 512, 4095, 65_535, 100_000, sizeBytes - 3000].filter(
      (at) => at + 3000 <= sizeBytes,
    );
    for (const [i, offset] of places.entries()) {
      const bytes = filled(1 + ((i * 997) % 3000), i + 1);
      await device.write(offset, bytes);
      model.set(bytes, offset);
      await reads(assert, device, offset, bytes);
    }
    await device.flush();
    await reads(assert, device, 0, model);
  });

  test('writes the part of a buffer that it was lent, and forgets the buffer', async (device) => {
    const buffer = new Uint8Array(3000).map((_, i) => (i % 255) + 1);
    const lent = buffer.slice(1000, 2000);
    await device.write(700, buffer.subarray(1000, 2000));
    buffer.fill(0xee);
    await reads(assert, device, 0, Uint8Array.of(...filled(700, 0), ...lent, ...filled(100, 0)));
  });

  test('takes FUA on everything that writes', async (device) => {
    await device.write(10, filled(1000, 5), { fua: true });
    await device.writeZeroes(20, 30, { fua: true, mayUnmap: true });
    await device.discard(100, 0, { fua: true });
    await reads(assert, device, 0, Uint8Array.of(...filled(10, 0), ...filled(10, 5), ...filled(30, 0), 5));
  });

  test('flushes: fresh, dirty, clean, and several at once', async (device) => {
    await device.flush();
    await device.write(0, filled(10, 1));
    await Promise.all([device.flush(), device.write(10, filled(10, 2)), device.flush(), device.flush()]);
    await device.flush();
    await reads(assert, device, 0, Uint8Array.of(...filled(10, 1), ...filled(10, 2), 0));
  });

  test('discards: each byte is what it was or zero, its neighbours are what they were', async (device) => {
    const length = Math.min(sizeBytes, 200_000);
    await device.write(0, filled(length, 3));
    await device.discard(1000, length - 2000);
    await reads(assert, device, 0, filled(1000, 3));
    await reads(assert, device, length - 1000, filled(1000, 3));
    const inside = new Uint8Array(length - 2000);
    await device.read(1000, inside);
    assert.ok(inside.every((byte) => byte === 3 || byte === 0));
    await device.write(1000, filled(500, 4));
    await reads(assert, device, 1000, filled(500, 4));
  });
}

export function defineZeroes({ assert, sizeBytes, test }: Suite): void {
  for (const mayUnmap of [false, true]) {
    test(`writes zeroes exactly where it was told, ${mayUnmap ? 'space given back' : 'space kept'}`, async (device) => {
      const model = filled(sizeBytes, 6);
      await device.write(0, model);
      for (const [offset, end] of [
        [1, 2],
        [500, 5000],
        [8192, 12_288],
        [65_000, 140_000],
        [sizeBytes - 10, sizeBytes],
      ] as const) {
        if (end > sizeBytes) continue;
        await device.writeZeroes(offset, end - offset, { mayUnmap });
        model.fill(0, offset, end);
      }
      await reads(assert, device, 0, model);
      await checkExtents(device, assert, 0, sizeBytes, 'after zeroes');
    });
  }
}

export function defineConcurrency({ assert, sizeBytes, test }: Suite): void {
  test('loses nothing of many small writes side by side', async (device) => {
    const model = new Uint8Array(sizeBytes);
    const pieces = Array.from({ length: 64 }, (_, i) => ({
      offset: 1000 + i * 300,
      bytes: filled(300, i + 1),
    }));
    // Every other one first, so that neighbours are under way together but not in order.
    const order = [...pieces.filter((_, i) => i % 2 === 0), ...pieces.filter((_, i) => i % 2 === 1)];
    await Promise.all(order.map(({ offset, bytes }) => device.write(offset, bytes)));
    for (const { offset, bytes } of pieces) model.set(bytes, offset);
    await reads(assert, device, 0, model);
  });

  test('lets overlapping writes take effect in either order, sector by sector', async (device) => {
    await Promise.all([
      device.write(0, filled(64 * 512, 1)),
      device.write(8 * 512, filled(64 * 512, 2)),
      device.writeZeroes(16 * 512, 16 * 512),
      device.write(4 * 512, filled(32 * 512, 3)),
    ]);
    const into = new Uint8Array(72 * 512);
    await device.read(0, into);
    for (let sector = 0; sector < 72; sector++) {
      const bytes = into.subarray(sector * 512, (sector + 1) * 512);
      const value = bytes[0] ?? -1;
      const allowed = new Set([
        ...(sector < 64 ? [1] : []),
        ...(sector >= 8 ? [2] : []),
        ...(sector >= 16 && sector < 32 ? [0] : []),
        ...(sector >= 4 && sector < 36 ? [3] : []),
      ]);
      assert.ok(
        allowed.has(value) && bytes.every((byte) => byte === value),
        `sector ${sector} holds ${value}`,
      );
    }
  });

  test('gives a read beside a write whole sectors, old or new', async (device) => {
    await device.write(0, filled(32 * 512, 1));
    const into = new Uint8Array(32 * 512);
    await Promise.all([device.read(0, into), device.write(0, filled(32 * 512, 2)), device.flush()]);
    for (let sector = 0; sector < 32; sector++) {
      const bytes = into.subarray(sector * 512, (sector + 1) * 512);
      assert.ok(
        [1, 2].includes(bytes[0] ?? 0) && bytes.every((byte) => byte === bytes[0]),
        `sector ${sector}`,
      );
    }
    await reads(assert, device, 0, filled(32 * 512, 2));
  });
}

export function defineGrowth({ assert, sizeBytes, test }: Suite): void {
  test('grows by a write across the end, and by one beyond it with zeros between', async (device) => {
    await device.write(sizeBytes - 5, filled(10, 8));
    assert.ok(device.sizeBytes === sizeBytes + 5, `size ${device.sizeBytes}`);
    await device.write(sizeBytes + 70_005, filled(10, 9));
    assert.ok(device.sizeBytes === sizeBytes + 70_015, `size ${device.sizeBytes}`);
    const expected = filled(70_021, 0).fill(8, 1, 11).fill(9, 70_011);
    await reads(assert, device, sizeBytes - 6, expected);
    await checkExtents(device, assert, 0, device.sizeBytes, 'grown');
  });

  test('grows by zeroes, and not by requests of no bytes', async (device) => {
    await device.write(sizeBytes - 10, filled(10, 8));
    await device.write(sizeBytes + 1000, new Uint8Array(0));
    await device.writeZeroes(sizeBytes + 1000, 0);
    assert.ok(device.sizeBytes === sizeBytes, `size ${device.sizeBytes}`);
    await device.writeZeroes(sizeBytes - 5, 20);
    assert.ok(device.sizeBytes === sizeBytes + 15, `size ${device.sizeBytes}`);
    await device.writeZeroes(sizeBytes + 1000, 10);
    assert.ok(device.sizeBytes === sizeBytes + 1010, `size ${device.sizeBytes}`);
    await reads(assert, device, sizeBytes - 10, Uint8Array.of(...filled(5, 8), ...filled(1015, 0)));
  });

  test('grows under many writes at once, to the end of the last', async (device) => {
    const ends = Array.from({ length: 20 }, (_, i) => ((i * 7) % 20) + 1);
    await Promise.all([
      ...ends.map((end) => device.write(sizeBytes + (end - 1) * 1000, filled(1000, end))),
      device.writeZeroes(sizeBytes + 20_000, 500),
    ]);
    assert.ok(device.sizeBytes === sizeBytes + 20_500, `size ${device.sizeBytes}`);
    for (const end of ends) await reads(assert, device, sizeBytes + (end - 1) * 1000, filled(1000, end));
  });
}

export function defineResize({ assert, subject, sizeBytes, test }: Suite): void {
  const unit = subject.sizeMultipleBytes ?? 1;
  test('grows with zeros, shrinks, and shows no old bytes when it grows again', async (device) => {
    const smaller = Math.floor(sizeBytes / 2 / unit) * unit;
    const larger = Math.ceil((sizeBytes * 1.5) / unit) * unit;
    await device.write(0, filled(sizeBytes, 4));
    await device.resize(larger);
    assert.ok(device.sizeBytes === larger, `size ${device.sizeBytes}`);
    await reads(assert, device, sizeBytes, filled(larger - sizeBytes, 0));
    await device.resize(smaller);
    assert.ok(device.sizeBytes === smaller, `size ${device.sizeBytes}`);
    await fails(
      assert,
      () => device.read(smaller, new Uint8Array(1)),
      ['OUT_OF_RANGE'],
      'read after shrinking',
    );
    await device.resize(sizeBytes);
    await reads(
      assert,
      device,
      0,
      Uint8Array.from({ length: sizeBytes }, (_, i) => (i < smaller ? 4 : 0)),
    );
    await checkExtents(device, assert, 0, sizeBytes, 'resized');
  });
}

export function defineNoResize({ assert, sizeBytes, test }: Suite): void {
  test('refuses to be resized', async (device) => {
    await fails(assert, () => device.resize(sizeBytes), ['UNSUPPORTED_OPERATION'], 'resize');
  });
}
