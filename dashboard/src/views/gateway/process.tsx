// The gateway as a process: what it takes of the machine.

import type { About } from '../../api/types.ts';
import { bytes, decimal } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { Quantity } from './quantity.tsx';

const NEAR = 0.8;

export function Process({ process }: { process: About['process'] }) {
  const words = texts.value.gateway;
  const { cpu_percent: cpu, resident_bytes: resident, threads, open_files: files, max_open_files: most } = process;
  const share = files !== null && most ? files / most : undefined;
  return (
    <section class="panel" aria-labelledby="process-title">
      <h3 id="process-title">{words.process}</h3>
      <dl>
        <Quantity name={words.cpu} share={cpu === null ? undefined : cpu / 100} warn={(cpu ?? 0) >= NEAR * 100} note={words.cpuNote}>
          {cpu === null ? words.unknown : `${decimal(cpu, 1)} %`}
        </Quantity>
        <Quantity name={words.resident}>{resident === null ? words.unknown : bytes(resident)}</Quantity>
        <Quantity name={words.threads}>{threads ?? words.unknown}</Quantity>
        <Quantity name={words.openFiles} share={share} warn={(share ?? 0) >= NEAR}>
          {files === null ? words.unknown
            : most === null ? decimal(files, 0) : words.used(decimal(files, 0), decimal(most, 0))}
        </Quantity>
      </dl>
    </section>
  );
}
