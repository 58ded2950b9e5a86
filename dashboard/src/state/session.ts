// Who is at the page, where the gateway has users.

import { computed, signal } from '@preact/signals';

import { get, post, remove, whenUnauthorised } from '../api/rest.ts';

export type Role = 'viewer' | 'operator' | 'admin';

/** What the gateway says of the session: nobody need sign in, somebody must, or who did. */
export type Session = { login: boolean } | { user: string; role: Role; expires: number | null };

const PATH = '/api/v1/session';

/** Null until the gateway has said. */
export const session = signal<Session | null>(null);

/** Whether nothing can be seen until somebody signs in. */
export const mustSignIn = computed(() => {
  const known = session.value;
  return known !== null && 'login' in known && known.login;
});

/** Who signed in, null where that is not needed or not done. */
export const person = computed(() => {
  const known = session.value;
  return known !== null && 'user' in known ? known : null;
});

/** Whether commands may be sent, and the gateway itself be looked at. */
export const mayOperate = computed(() => person.value?.role !== 'viewer');

let asking: Promise<void> | null = null;

/** Asks the gateway who is at the page. One that does not answer leaves what was known. */
export function refreshSession(): Promise<void> {
  asking ??= get<Session>(PATH)
    .then((said) => {
      session.value = said;
    })
    .catch(() => undefined)
    .finally(() => {
      asking = null;
    });
  return asking;
}

// Any answer may say that the session has ended.
whenUnauthorised(() => void refreshSession());

/** Throws what the gateway says against it. */
export async function signIn(user: string, password: string): Promise<void> {
  session.value = await post<Session>(PATH, { user, password });
}

export async function signOut(): Promise<void> {
  await remove(PATH);
  session.value = { login: true };
}
