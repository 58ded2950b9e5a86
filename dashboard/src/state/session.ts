// Who is at the page, where the gateway has users.

import { computed, signal } from '@preact/signals';

import { get, post, remove, SESSION, shutDoor, whenUnauthorised } from '../api/rest.ts';

export type Role = 'viewer' | 'operator' | 'admin';

interface Person {
  user: string;
  role: Role;
  expires: number | null;
}

/** What the gateway says of the session: nobody need sign in, somebody must, or who did. */
export type Session = { login: boolean } | Person;

/** Null until the gateway has said. */
export const session = signal<Session | null>(null);

/** Who signed in last on this page. */
const last = signal<Person | null>(null);

const known = (said: Session | null): Person | null => (said !== null && 'user' in said ? said : null);
const stranger = (said: Session | null): boolean => said !== null && !('user' in said) && said.login;

/** Whether nothing can be asked until somebody signs in. */
export const mustSignIn = computed(() => stranger(session.value));

/** Who signed in and whose session has ended since, null otherwise. What they saw is still shown. */
export const ended = computed(() => (mustSignIn.value ? last.value : null));

/** Who signed in, null where that is not needed or not done. */
export const person = computed(() => known(session.value));

/** Whether commands may be sent, and the gateway itself be looked at. */
export const mayOperate = computed(() => (ended.value ?? person.value)?.role !== 'viewer');

/** Whether the audit log may be read; without users there is none. */
export const mayAudit = computed(() => (ended.value ?? person.value)?.role === 'admin');

/** The other tabs of this browser, which have the same session. */
const tabs = new BroadcastChannel('tidegate.session');
tabs.onmessage = ({ data }) => {
  if (data === 'out') location.reload();
  else void refreshSession();
};

let asking: Promise<void> | null = null;
/** Counts what happened here: an answer to a question from before says nothing any more. */
let turn = 0;
let leaving = false;

/** Asks the gateway who is at the page. One that does not answer leaves what was known. */
export function refreshSession(): Promise<void> {
  const asked = turn;
  asking ??= get<Session>(SESSION)
    .then((said) => {
      if (asked === turn && !leaving) take(said);
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
  const said = await post<Session>(SESSION, { user, password });
  turn += 1;
  take(said);
  tabs.postMessage('in');
}

/** Leaves nothing on the page, nor in its memory, here and in other tabs. Throws where it fails. */
export async function signOut(): Promise<void> {
  // The feed may end before the answer is here.
  leaving = true;
  try {
    await remove(SESSION);
  } catch (error) {
    leaving = false;
    throw error;
  }
  tabs.postMessage('out');
  location.reload();
}

function take(said: Session): void {
  const now = known(said);
  const before = last.peek();
  if (now && before && (now.user !== before.user || now.role !== before.role)) {
    // The page holds what another may see.
    location.reload();
    return;
  }
  if (now) last.value = now;
  shutDoor(stranger(said));
  session.value = said;
}
