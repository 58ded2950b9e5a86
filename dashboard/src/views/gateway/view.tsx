// The machine, the process, the limits that are near, the log and the settings in force.

import { span, utc, moment } from '../../format/times.ts';
import { locale, texts } from '../../i18n/index.ts';
import { gatewayTime, second } from '../../state/clock.ts';
import { status } from '../../state/gateway.ts';
import { mayAudit, mayOperate, session } from '../../state/session.ts';
import { useAbout } from './about.ts';
import { Audit } from './audit.tsx';
import { Configuration } from './configuration.tsx';
import { Limits } from './limits.tsx';
import { Log } from './log.tsx';
import { Machine } from './machine.tsx';
import { Process } from './process.tsx';
import { Push } from './push.tsx';
import './gateway.css';

export function GatewayView() {
  // Who may not look does not ask, and who they are is not known at once.
  const known = session.value !== null;
  if (known && mayOperate.value) return <Everything />;
  const { gateway, shell } = texts.value;
  return (
    <section aria-labelledby="gateway-title" class="gateway">
      <h2 id="gateway-title">{gateway.title}</h2>
      <p class="none">{known ? shell.mayNotLook : gateway.waiting}</p>
    </section>
  );
}

function Everything() {
  const words = texts.value.gateway;
  const about = useAbout().value;
  // The time it is up goes on.
  void second.value;
  return (
    <section aria-labelledby="gateway-title" class="gateway">
      <h2 id="gateway-title">{words.title}</h2>
      {about === null && <p class="none">{words.waiting}</p>}
      {about === 'absent' && <p class="none">{words.absent}</p>}
      {about !== null && about !== 'absent' && (
        <>
          <dl class="identity">
            <Fact name={words.version}>tidegate {about.version}</Fact>
            <Fact name={words.started}>
              <time dateTime={new Date(about.started * 1000).toISOString()} title={utc(about.started)}>
                {moment(about.started, gatewayTime(), locale.value)}
              </time>
              {', '}{words.since(span(gatewayTime() - about.started, texts.value.words.span))}
            </Fact>
            <Fact name={words.host}>
              {[about.machine.hostname, about.machine.system].filter(Boolean).join(' · ') || words.unknown}
            </Fact>
            <Fact name={words.system}>
              {[about.machine.kernel, about.machine.architecture].filter(Boolean).join(' · ') || words.unknown}
            </Fact>
          </dl>
          <div class="panels">
            <div class="column">
              <Machine machine={about.machine} />
              <Process process={about.process} />
            </div>
            <div class="column">
              <Limits limits={about.limits} />
              <Push targets={status.value?.push ?? []} />
            </div>
          </div>
        </>
      )}
      <Log />
      {mayAudit.value && <Audit />}
      {about !== null && about !== 'absent' && (
        <Configuration file={about.configuration_file} tables={about.configuration} />
      )}
    </section>
  );
}

function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}
