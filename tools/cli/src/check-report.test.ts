import { describe, expect, it } from 'vitest';
import { checkExitCode, checkJson, checkText, repairText } from './check-report.ts';

const sound = {
  corruptions: 0,
  leaks: 0,
  checkErrors: 0,
  totalClusters: 256,
  allocatedClusters: 4,
  fragmentedClusters: 2,
  compressedClusters: 0,
  imageEndOffset: 589824,
};

describe('checkText', () => {
  it('says when nothing is wrong', () => {
    expect(checkText(sound)).toBe(
      'No errors were found on the image.\n' +
        '4/256 = 1.56% allocated, 50.00% fragmented, 0.00% compressed clusters\n' +
        'Image end offset: 589824\n',
    );
  });

  it('counts what is wrong', () => {
    expect(checkText({ ...sound, corruptions: 2, leaks: 3, checkErrors: 4, allocatedClusters: 0 })).toBe(
      '\n2 errors were found on the image.\n' +
        'Data may be corrupted, or further writes to the image may corrupt it.\n' +
        '\n3 leaked clusters were found on the image.\n' +
        'This means waste of disk space, but no harm to data.\n' +
        '\n4 internal errors have occurred during the check.\n' +
        'Image end offset: 589824\n',
    );
  });
});

describe('percentages', () => {
  it.each([
    [1, 32, '3.12%'],
    [3, 32, '9.38%'],
    [1, 3, '33.33%'],
    [1, 16, '6.25%'],
    [5, 32, '15.62%'],
  ])('%i of %i are %s, as C prints them', (allocatedClusters, totalClusters, text) => {
    expect(checkText({ ...sound, allocatedClusters, totalClusters })).toContain(`= ${text} allocated`);
  });
});

describe('repairText', () => {
  it('says what was put right', () => {
    expect(repairText({ corruptionsFixed: 2, leaksFixed: 3 })).toBe(
      'The following inconsistencies were found and repaired:\n\n    3 leaked clusters\n    2 corruptions\n\n' +
        'Double checking the fixed image now...\n',
    );
    const fixed = checkJson('x', sound, { corruptionsFixed: 2, leaksFixed: 0 });
    expect(fixed['corruptions-fixed']).toBe(2);
    expect(fixed['leaks-fixed']).toBeUndefined();
  });
});

describe('checkExitCode', () => {
  it.each([
    [{}, 0],
    [{ leaks: 1 }, 3],
    [{ corruptions: 1 }, 2],
    [{ corruptions: 1, leaks: 1 }, 2],
    [{ corruptions: 1, leaks: 1, checkErrors: 1 }, 1],
  ])('%j gives %d', (figures, code) => {
    expect(checkExitCode({ ...sound, ...figures })).toBe(code);
  });
});

describe('checkJson', () => {
  it('leaves zero figures out, but not the errors of the check itself', () => {
    const { 'compressed-clusters': compressed, ...report } = checkJson('x', sound);
    expect(compressed).toBeUndefined();
    expect(report).toMatchObject({
      'check-errors': 0,
      'total-clusters': 256,
      filename: 'x',
      format: 'qcow2',
    });
  });
});
