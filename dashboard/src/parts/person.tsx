// Who is signed in, and the way out.

import { useSignal } from '@preact/signals';

import { texts } from '../i18n/index.ts';
import { person, signOut } from '../state/session.ts';

export function Person() {
  const words = texts.value.shell;
  const busy = useSignal(false);
  const who = person.value;
  if (!who) return null;
  const leave = () => {
    busy.value = true;
    // Whatever goes wrong, the page goes on showing who is signed in.
    void signOut().catch(() => undefined).finally(() => {
      busy.value = false;
    });
  };
  return (
    <p class="person">
      <span><strong>{who.user}</strong> {words.role[who.role]}</span>
      <button type="button" disabled={busy.value} onClick={leave}>{words.signOut}</button>
    </p>
  );
}
