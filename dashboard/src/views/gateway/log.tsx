// The tail of the log: follows its end unless somebody has scrolled away from it, or paused it.

import { useComputed, useSignal } from '@preact/signals';
import { useLayoutEffect, useRef } from 'preact/hooks';

import { get } from '../../api/rest.ts';
import type { Level, LogEntry } from '../../api/types.ts';
import { texts } from '../../i18n/index.ts';
import { Find } from '../../parts/find.tsx';
import { useAsking } from '../../state/asking.ts';
import { log, mergeLog, type Line } from '../../state/log.ts';
import { fits, LEVELS } from './filter.ts';
import { LogLine } from './logline.tsx';

// The feed brings `info` and what is more serious. Who wants more asks for it this often.
const ASK_EVERY = 2000;
const FED: readonly Level[] = ['error', 'warn', 'info'];
// This close to the end counts as at the end, in pixels.
const AT_END = 24;

export function Log() {
  const words = texts.value.gateway.log;
  const level = useSignal<Level>('info');
  const find = useSignal('');
  // What was known when somebody said pause.
  const paused = useSignal<readonly Line[] | null>(null);
  const following = useSignal(true);
  const shown = useComputed(() =>
    (paused.value ?? log.value).filter((line) => fits(line, level.value, find.value)));
  const box = useRef<HTMLDivElement>(null);
  const lines = shown.value;
  const last = lines.at(-1);
  useEarlier(level.value);

  useLayoutEffect(() => {
    if (following.peek() && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [last?.run, last?.number, lines.length, following.value]);

  const held = paused.value;
  const newest = held?.at(-1);
  const newer = held && newest
    ? log.value.filter((line) => line.run > newest.run || (line.run === newest.run && line.number > newest.number)).length
    : 0;

  return (
    <section class="panel log" aria-labelledby="log-title">
      <div class="tools">
        <h3 id="log-title">{words.title}</h3>
        <span class="note">{words.kept(lines.length)}{newer > 0 && ` · ${words.newer(newer)}`}</span>
        <label>
          <span class="unseen">{words.level}</span>
          <select
            aria-label={words.level}
            value={level.value}
            onChange={(event) => {
              level.value = event.currentTarget.value as Level;
            }}
          >
            {LEVELS.map((one) => <option key={one} value={one}>{words.levels[one]}</option>)}
          </select>
        </label>
        <Find name={words.find} sought={find} />
        <button
          type="button"
          onClick={() => {
            paused.value = paused.value ? null : log.value;
          }}
        >
          {held ? words.resume : words.pause}
        </button>
      </div>
      <div
        class="lines"
        ref={box}
        role="log"
        aria-live="off"
        aria-label={words.title}
        tabIndex={0}
        onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
          following.value = scrollHeight - clientHeight - scrollTop < AT_END;
        }}
      >
        {lines.length === 0 && <p class="none">{find.value ? words.noneFound : words.none}</p>}
        <ol>{lines.map((line) => <LogLine key={`${line.run}/${line.number}`} line={line} />)}</ol>
      </div>
      {!following.value && (
        <button
          type="button"
          class="end"
          onClick={() => {
            following.value = true;
          }}
        >
          ↓ {words.toEnd}
        </button>
      )}
    </section>
  );
}

/** What was logged before the page was opened, or while it had no connection. */
function useEarlier(level: Level): void {
  useAsking(async (signal) => {
    try {
      const path = `/api/v1/log?level=${level}&limit=1000`;
      const { entries } = await get<{ entries: LogEntry[] }>(path, signal);
      mergeLog(entries);
    } catch {
      // An older gateway has none to tell, and what the feed brings is shown all the same.
    }
  }, FED.includes(level) ? 0 : ASK_EVERY, [level]);
}
