// What every view stands in: the name, the way between the views, and the word that the page's own
// connection is gone.

import { useSignalEffect } from '@preact/signals';

import { texts } from './i18n/index.ts';
import { Banner } from './parts/banner.tsx';
import { LanguageChoice } from './parts/language.tsx';
import { Person } from './parts/person.tsx';
import { UplinkNotice } from './parts/uplink.tsx';
import { connection, status } from './state/gateway.ts';
import { href, route } from './state/router.ts';
import { ended, mustSignIn } from './state/session.ts';
import { DeviceView } from './views/device/view.tsx';
import { GatewayView } from './views/gateway/view.tsx';
import { Overview } from './views/overview/view.tsx';
import { SignIn } from './views/sign-in/view.tsx';
import './styles/shell.css';

export function Shell() {
  const words = texts.value.shell;
  const at = route.value;
  const link = connection.value.state;
  const name = status.value?.gateway ?? 'tidegate';
  useSignalEffect(() => {
    document.title = title();
  });
  const current = (view: string) => ((at.view === 'device' ? 'overview' : at.view) === view ? 'page' : undefined);
  // A stranger sees nothing; whose session has ended, how things were.
  const over = ended.value !== null;
  const bare = mustSignIn.value && !over;
  return (
    <div class="shell" data-link={link}>
      <div inert={over}>
        <a class="skip" href="#content" onClick={skip}>{words.skip}</a>
        <header class="top">
          <img src="/favicon.svg" alt="" width="36" height="36" />
          <div class="name">
            <h1>{name}</h1>
            <p>{status.value ? `tidegate ${status.value.version}` : ''}</p>
          </div>
          {!bare && (
            <nav aria-label={words.views}>
              <a href={href({ view: 'overview' })} aria-current={current('overview')}>{words.overview}</a>
              <a href={href({ view: 'gateway' })} aria-current={current('gateway')}>{words.gateway}</a>
            </nav>
          )}
          <LanguageChoice />
          <Person />
          {!bare && <p class="link" role="status"><span class="dot" />{words.link[link]}</p>}
        </header>
        {!mustSignIn.value && <Banner />}
        <main id="content" tabIndex={-1}>
          {bare ? <SignIn /> : (
            <>
              {at.view !== 'overview' && <UplinkNotice />}
              {at.view === 'device' ? <DeviceView key={at.id} id={at.id} />
                : at.view === 'gateway' ? <GatewayView /> : <Overview />}
            </>
          )}
        </main>
      </div>
      {over && (
        <div class="veil" role="dialog" aria-modal="true" aria-labelledby="sign-in-title">
          <SignIn />
        </div>
      )}
    </div>
  );
}

// For whoever has the page in a tab behind others.
function title(): string {
  const at = route.value;
  const words = texts.value.shell;
  const name = status.value?.gateway ?? 'tidegate';
  if (mustSignIn.value) return `${words.signIn} · ${name}`;
  const view = at.view === 'device' ? at.id : at.view === 'gateway' ? words.gateway : null;
  const wrong = connection.value.state === 'lost' || status.value?.uplink.state === 'disconnected';
  return `${wrong ? '⚠ ' : ''}${view === null ? name : `${view} · ${name}`}`;
}

// The address behind # names the view, so the link must not change it.
function skip(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById('content')?.focus();
}
