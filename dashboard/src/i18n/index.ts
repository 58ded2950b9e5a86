// The page's words. Every language has every text: the compiler compares them with English.

import { computed, effect, signal } from '@preact/signals';

import { device as enDevice } from './en/device.ts';
import { gateway as enGateway } from './en/gateway.ts';
import { overview as enOverview } from './en/overview.ts';
import { shell as enShell } from './en/shell.ts';
import { words as enWords } from './en/words.ts';
import { device as koDevice } from './ko/device.ts';
import { gateway as koGateway } from './ko/gateway.ts';
import { overview as koOverview } from './ko/overview.ts';
import { shell as koShell } from './ko/shell.ts';
import { words as koWords } from './ko/words.ts';

const en = { shell: enShell, overview: enOverview, device: enDevice, gateway: enGateway, words: enWords };
const ko: typeof en = {
  shell: koShell, overview: koOverview, device: koDevice, gateway: koGateway, words: koWords,
};

/** The languages, each by its own name. */
export const LANGUAGES = { en: 'English', ko: '한국어' } as const;
export type Language = keyof typeof LANGUAGES;

const KEY = 'tidegate.language';

export const language = signal<Language>(preferred());

/** All texts in the chosen language. */
export const texts = computed(() => (language.value === 'ko' ? ko : en));

/** The locale that times are written in. */
export const locale = computed(() => (language.value === 'ko' ? 'ko-KR' : 'en-GB'));

effect(() => {
  document.documentElement.lang = language.value;
});

/** Chooses a language and remembers it. */
export function choose(chosen: Language): void {
  language.value = chosen;
  try {
    localStorage.setItem(KEY, chosen);
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
}

function preferred(): Language {
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // As above.
  }
  const wanted = [chosen, ...navigator.languages].map((tag) => tag?.slice(0, 2));
  return wanted.find((tag): tag is Language => tag === 'en' || tag === 'ko') ?? 'en';
}
