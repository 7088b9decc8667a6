/** `serve --connect` and `--disconnect`, with a played nbd-client: it shakes hands as the real one does, and is the kernel too. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, type Outcome, qcow2, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

/** Attaches for as long as `DEV.held` is there, which -d takes away; writes what it was told and what it saw. */
const played = `#!${python}
import os, sys, time, json, stat
words = sys.argv[1:]
if words[0] == "-d":
    if not os.path.exists(words[1] + ".held"):
        sys.stderr.write("Error: Invalid nbd device target\\n\\nExiting.\\n"); sys.exit(1)
    os.unlink(words[1] + ".held"); sys.exit(0)
assert words[0] == "-unix"
path, device = words[1], words[2]
import nbd
h = nbd.NBD()
h.set_export_name(words[words.index("-name") + 1] if "-name" in words else "")
h.connect_unix(path)
seen = {"words": words[3:], "size": h.get_size(), "readOnly": h.is_read_only(), "bytes": h.pread(2, 4096).decode("latin1"),
        "mode": stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode), "folder": os.path.dirname(path)}
open(device + ".held", "w").close()
if os.fork() > 0: os._exit(0)
os.setsid()
for fd in (0, 1, 2): os.close(fd)
with open(device + ".part", "w") as f: f.write(json.dumps(seen))
os.rename(device + ".part", device + ".seen")
while os.path.exists(device + ".held"):
    time.sleep(0.005)
    try: h.pread(1, 0)
    except nbd.Error: os._exit(0)
if not h.is_read_only(): h.pwrite(b"kernel", 8192); h.flush()
h.shutdown()
`;

describeWith(['qemu-img', 'qemu-io', 'python3-libnbd'], 'a served image as a block device', () => {
  const scratch = scratchFolder();
  const inScratch = (name: string): string => join(scratch.path, name);
  const image = inScratch('disk.qcow2');
  const device = inScratch('nbd0');
  const temporary = inScratch('temporary');
  const env = { PATH: `${inScratch('bin')}:${process.env.PATH}`, TMPDIR: temporary };
  const command = (...words: string[]): Outcome => qcow2(['serve', ...words], { env });
  const sockets = (): string[] => readdirSync(temporary).filter((name) => name.startsWith('qcow2-nbd-'));
  const seen = (): Record<string, unknown> => JSON.parse(readFileSync(`${device}.seen`, 'utf8'));
  const untilSeen = async (): Promise<void> => {
    while (!existsSync(`${device}.seen`)) await sleep(5);
  };

  beforeAll(() => {
    mkdirSync(inScratch('bin'));
    mkdirSync(temporary);
    writeFileSync(inScratch('bin/nbd-client'), played);
    chmodSync(inScratch('bin/nbd-client'), 0o755);
    writeFileSync(device, '');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '16M']);
    must('qemu-io', ['-c', 'write -P 0x61 4k 4k', image]);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  it('-c returns once it is attached; -d ends the device, and the server closes the image', async () => {
    const pidFile = inScratch('pid');
    expect(command('-c', device, '-t', '--pid-file', pidFile, image)).toEqual({
      status: 0,
      stdout: '',
      stderr: '',
    });
    await untilSeen();
    expect(seen()).toMatchObject({
      words: ['-b', '512'],
      size: 16 * 1024 * 1024,
      readOnly: false,
      bytes: 'aa',
    });
    expect(seen().mode).toBe(0o700);
    expect(String(seen().folder)).toContain(join(temporary, 'qcow2-nbd-'));
    expect(sockets()).toEqual([]);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 0);
    expect(command('-d', device)).toEqual({ status: 0, stdout: `${device} disconnected\n`, stderr: '' });
    while (existsSync(`/proc/${pid}`)) await sleep(5);
    must('qemu-io', ['-r', '-c', 'read -P 0x6b 8192 1', '-c', 'read -P 0x6c 8197 1', image]);
    must('qemu-img', ['check', '-q', image]);
    expect(command('-d', device)).toEqual({
      status: 1,
      stdout: '',
      stderr: `qcow2: Failed to disconnect ${device}: nbd-client: Invalid nbd device target\n`,
    });
  });

  it('says -r and -x to nbd-client, and a signal disconnects the device before the server ends', async () => {
    const bytes = readFileSync(image);
    rmSync(`${device}.seen`);
    const server = await startServer(['-c', device, '-r', '-x', 'disk', '-k', inScratch('mine'), image], [], {
      env,
    });
    await untilSeen();
    expect(server.stderr()).toContain(`serving ${image} at ${device}\n`);
    expect(seen()).toMatchObject({
      readOnly: true,
      words: ['-b', '512', '-name', 'disk', '-R'],
      folder: scratch.path,
    });
    expect(await server.end('SIGTERM')).toBe(0);
    expect(existsSync(`${device}.held`)).toBe(false);
    expect(existsSync(inScratch('mine'))).toBe(false);
    expect(readFileSync(image).equals(bytes)).toBe(true);
  });

  it('a client that fails is one line, and leaves nothing', () => {
    const failed = (path: string, words: string): string => {
      mkdirSync(inScratch(path));
      writeFileSync(inScratch(`${path}/nbd-client`), `#!/bin/sh\n${words}\n`, { mode: 0o755 });
      const outcome = qcow2(['serve', '-c', device, image], {
        env: { ...env, PATH: `${inScratch(path)}:${process.env.PATH}` },
      });
      expect(outcome.status).toBe(1);
      expect(sockets()).toEqual([]);
      return outcome.stderr;
    };
    const words = `qcow2: Failed to connect ${device}: nbd-client`;
    expect(
      failed(
        'speaking',
        'echo Warning >&2; echo "Error: no module" >&2; echo >&2; echo Exiting. >&2; exit 1',
      ),
    ).toBe(`${words}: no module\n`);
    expect(failed('silent', 'exit 3')).toBe(`${words}: ended with 3\n`);
    expect(failed('killed', 'kill -9 $$')).toBe(`${words}: ended with SIGKILL\n`);
  });

  it('a server that is killed leaves no folder', async () => {
    const server = await startServer(['-c', device, image], [], { env });
    expect(await server.end('SIGKILL')).toBe('SIGKILL');
    expect(sockets()).toEqual([]);
    must('qemu-img', ['check', '-q', image]);
  });
});
