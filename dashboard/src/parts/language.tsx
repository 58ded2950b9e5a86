// The choice of the page's language.

import { choose, language, LANGUAGES, texts, type Language } from '../i18n/index.ts';

export function LanguageChoice() {
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
