/** Protections of the ring, each left out by name: the search must find what then goes wrong. */
export const mutants = {
  'slot-before-write-back': 'the tail passes a round as soon as it is written, flushed or not [JRN-WB-002]',
  'flush-under-way-covers':
    'a round that ends while a flush is under way counts as covered by it [JRN-WB-002]',
  'cut-at-end': 'a round passes what is durable when it ends, not what was when it began [JRN-WB-003]',
  'slot-while-slot-pending': 'generation g + 1 is written before g is durable [JRN-SLOT-017]',
  'reuse-at-slot-write': 'space is free as soon as the slot that frees it is written [JRN-WB-004]',
  'head-may-reach-tail': 'no block stays free [JRN-WB-005]',
  'no-reassert': 'what recovery found is relied on as it was read [JRN-RECOV-010]',
  'reassert-flushes-only': 'recovery flushes, and does not write again what it found [JRN-RECOV-010]',
  'salt-kept': 'a new life goes on with the salt of the one before [JRN-RECOV-011]',
  'claim-before-flush': 'a record counts as durable when it is appended [JRN-REC-010]',
  'write-back-before-durable': 'changes are written in place while their record is pending [JRN-WB-001]',
  'acknowledge-at-flush-begin': 'a flush acknowledges what was appended when it ends [JRN-COMMIT-001]',
} as const;

export type Mutant = keyof typeof mutants;
