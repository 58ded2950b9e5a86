// What every view stands in: the name, the way between the views, and the word that the page's own
// connection is gone.

import { useSignalEffect } from '@preact/signals';

import { choose, language, LANGUAGES, locale, texts, type Language } from './i18n/index.ts';
import { moment } from './format/times.ts';
import { second } from './state/clock.ts';
import { connection, reconnect, status } from './state/gateway.ts';
import { href, route } from './state/router.ts';
import { DeviceView } from './views/device/view.tsx';
import { GatewayView } from './views/gateway/view.tsx';
import { Overview } from './views/overview/view.tsx';
import './styles/shell.css';

export function Shell() {
  const words = texts.value.shell;
  const at = route.value;
  const link = connection.value.state;
  const name = status.value?.gateway ?? 'tidegate';
  useSignalEffect(() => {
    const wrong = connection.value.state === 'lost' || status.value?.uplink.state === 'disconnected';
    document.title = `${wrong ? '⚠ ' : ''}${status.value?.gateway ?? 'tidegate'}`;
  });
  const current = (view: string) => ((at.view === 'device' ? 'overview' : at.view) === view ? 'page' : undefined);
  return (
    <div class="shell" data-link={link}>
      <a class="skip" href="#content" onClick={skip}>{words.skip}</a>
      <header class="top">
        <img src="/favicon.svg" alt="" width="36" height="36" />
        <div class="name">
          <h1>{name}</h1>
          <p>{status.value ? `tidegate ${status.value.version}` : ''}</p>
        </div>
        <nav aria-label={words.views}>
          <a href={href({ view: 'overview' })} aria-current={current('overview')}>{words.overview}</a>
          <a href={href({ view: 'gateway' })} aria-current={current('gateway')}>{words.gateway}</a>
        </nav>
        <LanguageChoice />
        <p class="link"><span class="dot" />{words.link[link]}</p>
      </header>
      <Banner />
      <main id="content" tabIndex={-1}>
        {at.view === 'device' ? <DeviceView key={at.id} id={at.id} />
          : at.view === 'gateway' ? <GatewayView /> : <Overview />}
      </main>
    </div>
  );
}

// The address behind # names the view, so the link must not change it.
function skip(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById('content')?.focus();
}

function LanguageChoice() {
  return (
    <select
      class="language"
      aria-label={texts.value.shell.language}
      value={language.value}
      onChange={(event) => choose(event.currentTarget.value as Language)}
    >
      {Object.entries(LANGUAGES).map(([tag, name]) => <option key={tag} value={tag} lang={tag}>{name}</option>)}
    </select>
  );
}

/** Says that the page shows the past, since when, and when it tries again. */
function Banner() {
  const link = connection.value;
  if (link.state !== 'lost') return null;
  // Counts down with it.
  void second.value;
  const words = texts.value.shell;
  const left = Math.ceil((link.retryAt - Date.now()) / 1000);
  return (
    <div class="banner" role="alert">
      <p>
        <strong>
          {status.value
            ? words.lostSince(moment(link.since / 1000, Date.now() / 1000, locale.value))
            : words.unreachable}
        </strong>{' '}
        <span aria-hidden="true">{left > 0 ? words.retryIn(left) : words.retrying}</span>
      </p>
      <button type="button" onClick={reconnect}>{words.retry}</button>
    </div>
  );
}
