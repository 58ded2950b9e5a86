// Where the gateway has users: who is there?

import { useSignal } from '@preact/signals';
import { useLayoutEffect, useRef } from 'preact/hooks';

import { ApiError } from '../../api/rest.ts';
import { texts } from '../../i18n/index.ts';
import { second } from '../../state/clock.ts';
import { status } from '../../state/gateway.ts';
import { ended, signIn } from '../../state/session.ts';
import './sign-in.css';

export function SignIn() {
  const words = texts.value.shell;
  const first = useRef<HTMLInputElement>(null);
  const secret = useRef<HTMLInputElement>(null);
  const busy = useSignal(false);
  const shown = useSignal(false);
  const fault = useSignal<string | null>(null);
  /** Not before then, in milliseconds of this machine's clock. */
  const next = useSignal(0);
  // Whose session has ended goes on where they were.
  const who = ended.value?.user ?? null;
  useLayoutEffect(() => {
    const before = document.activeElement;
    (who === null ? first : secret).current?.focus();
    return () => {
      // What could not be reached takes the focus once it can be again.
      requestAnimationFrame(() => {
        if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
      });
    };
  }, []);

  const submit = async (event: SubmitEvent) => {
    // The script asks; the page's policy lets no form be sent.
    event.preventDefault();
    const filled = new FormData(event.currentTarget as HTMLFormElement);
    busy.value = true;
    fault.value = null;
    try {
      await signIn(String(filled.get('user')), String(filled.get('password')));
    } catch (error) {
      fault.value = said(error);
      if (error instanceof ApiError && error.status === 429) next.value = Date.now() + (error.retryAfter ?? 1) * 1000;
      secret.current?.select();
    } finally {
      busy.value = false;
    }
  };
  const said = (error: unknown): string | null => {
    if (!(error instanceof ApiError)) return words.signInFault(String(error));
    // The wait says it by itself.
    if (error.status === 429) return null;
    if (error.status === 401) return words.wrong;
    return error.status === 0 ? words.unreachable : words.signInFault(error.message);
  };

  // Counts down with it.
  void second.value;
  const wait = Math.ceil((next.value - Date.now()) / 1000);
  const told = wait > 0 ? words.slowed(wait) : fault.value;
  return (
    <form class="sign-in" onSubmit={(event) => void submit(event)} aria-labelledby="sign-in-title">
      <h2 id="sign-in-title">{words.signInTo(status.value?.gateway ?? location.hostname)}</h2>
      {who !== null && <p>{words.ended}</p>}
      <label>
        {words.user}
        <input
          ref={first}
          name="user"
          defaultValue={who ?? ''}
          autocomplete="username"
          autocapitalize="none"
          spellcheck={false}
          required
        />
      </label>
      <label>
        {words.password}
        <input
          ref={secret}
          name="password"
          type={shown.value ? 'text' : 'password'}
          autocomplete="current-password"
          autocapitalize="none"
          spellcheck={false}
          aria-describedby="sign-in-fault"
          required
        />
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={shown.value}
          onChange={(event) => {
            shown.value = event.currentTarget.checked;
          }}
        />
        {words.showPassword}
      </label>
      <p id="sign-in-fault" class="fault" role="alert">{told}</p>
      <button type="submit" disabled={busy.value || wait > 0}>{words.signIn}</button>
    </form>
  );
}
