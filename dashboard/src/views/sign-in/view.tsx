// Where the gateway has users: who is there?

import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';

import { ApiError } from '../../api/rest.ts';
import { texts } from '../../i18n/index.ts';
import { second } from '../../state/clock.ts';
import { status } from '../../state/gateway.ts';
import { signIn } from '../../state/session.ts';
import './sign-in.css';

export function SignIn() {
  const words = texts.value.shell;
  const first = useRef<HTMLInputElement>(null);
  const busy = useSignal(false);
  const shown = useSignal(false);
  const fault = useSignal<string | null>(null);
  /** Not before then, in milliseconds of this machine's clock. */
  const next = useSignal(0);
  useEffect(() => first.current?.focus(), []);

  const submit = async (event: SubmitEvent) => {
    // The script asks; the page's policy lets no form be sent.
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const filled = new FormData(form);
    busy.value = true;
    fault.value = null;
    try {
      await signIn(String(filled.get('user')), String(filled.get('password')));
    } catch (error) {
      fault.value = said(error);
      if (error instanceof ApiError && error.status === 429) next.value = Date.now() + (error.retryAfter ?? 1) * 1000;
      form.querySelector<HTMLInputElement>('input[name=password]')?.select();
    }
    busy.value = false;
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
      <label>
        {words.user}
        <input ref={first} name="user" autocomplete="username" autocapitalize="none" spellcheck={false} required />
      </label>
      <label>
        {words.password}
        <input name="password" type={shown.value ? 'text' : 'password'} autocomplete="current-password" required />
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
      <p class="fault" role="alert">{told}</p>
      <button type="submit" disabled={busy.value || wait > 0}>{words.signIn}</button>
    </form>
  );
}
