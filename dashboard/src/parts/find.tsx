// A field to look for something in what is listed.

import type { Signal } from '@preact/signals';

export function Find({ name, sought }: { name: string; sought: Signal<string> }) {
  return (
    <input
      type="search"
      aria-label={name}
      placeholder={name}
      value={sought.value}
      onInput={(event) => {
        sought.value = event.currentTarget.value;
      }}
    />
  );
}
