// The devices, of which only those in view are in the page: it works with thousands.

import { useSignal, useSignalEffect } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

import { fleet } from '../../state/fleet.ts';
import { texts } from '../../i18n/index.ts';
import { Card, Item } from './card.tsx';
import { overfull, rows, shown, wanted, type LayoutName } from './survey.ts';
import { columnsIn, part, step, type Layout } from './window.ts';

// In rem, as in overview.css.
const GAP = 0.875;
const LEAST_WIDTH = 19;
const HEAD_HEIGHT = 5;
const ROW_HEIGHT = 1.75;
const SINGLE_HEIGHT = 3.25;
const MORE_HEIGHT = 1.25;
const ITEM_HEIGHT = 2.75;
const NARROW_ITEM_HEIGHT = 4;
// Pixels drawn above and below what is in view.
const MARGIN = 300;

/** Where the page was scrolled to when it was left for a device. */
let left = 0;

export function cardHeight(room: number, more: boolean): number {
  return HEAD_HEIGHT + (room === 1 ? SINGLE_HEIGHT : room * ROW_HEIGHT) + (more ? MORE_HEIGHT : 0);
}

function measure(layout: LayoutName, room: number, more: boolean, width: number, count: number): Layout {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
  if (layout === 'list') {
    return { count, columns: 1, pitch: (width < 40 * rem ? NARROW_ITEM_HEIGHT : ITEM_HEIGHT) * rem };
  }
  return {
    count,
    columns: columnsIn(width, LEAST_WIDTH * rem, GAP * rem),
    pitch: (cardHeight(room, more) + GAP) * rem,
  };
}

export function Grid() {
  const list = useRef<HTMLUListElement>(null);
  const width = useSignal(0);
  const view = useSignal({ top: 0, height: 0 });
  const ids = shown.value;
  const { layout } = wanted.value;
  const room = rows.value;
  const shape = measure(layout, room, overfull.value, width.value, ids.length);
  const { first, end, above, height } = part(shape, view.value.top, view.value.height, MARGIN);

  useLayoutEffect(() => {
    const node = list.current;
    if (!node) return undefined;
    let frame = 0;
    const look = () => {
      frame = 0;
      const box = node.getBoundingClientRect();
      width.value = box.width;
      const before = view.peek();
      if (before.top !== box.top || before.height !== innerHeight) {
        view.value = { top: box.top, height: innerHeight };
      }
    };
    const soon = () => {
      frame ||= requestAnimationFrame(look);
    };
    look();
    // What stands above the grid may grow; then the grid moves without a scroll.
    const sizes = new ResizeObserver(soon);
    sizes.observe(document.body);
    sizes.observe(node);
    addEventListener('scroll', soon, { passive: true });
    addEventListener('resize', soon);
    return () => {
      cancelAnimationFrame(frame);
      sizes.disconnect();
      removeEventListener('scroll', soon);
      removeEventListener('resize', soon);
    };
  }, []);

  // The height stands once the first devices are drawn.
  useEffect(() => {
    if (left > 0) scrollTo({ top: left, behavior: 'instant' });
    left = 0;
    const keep = () => {
      left = scrollY;
    };
    addEventListener('hashchange', keep);
    return () => removeEventListener('hashchange', keep);
  }, []);

  // A key leads to a device that is not drawn yet: it gets the focus once it is.
  const next = useRef<string | null>(null);
  useSignalEffect(() => {
    void view.value;
    if (next.current !== null) requestAnimationFrame(() => focus(list.current, next));
  });
  const walk = (event: KeyboardEvent) => {
    const id = (event.target as HTMLElement).closest<HTMLElement>('[data-device]')?.dataset['device'];
    const node = list.current;
    if (id === undefined || !node || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = step(event.key, ids.indexOf(id), shape);
    if (target === null) return;
    event.preventDefault();
    next.current = ids[target] ?? null;
    const top = node.getBoundingClientRect().top + Math.floor(target / shape.columns) * shape.pitch;
    const header = 64;
    if (top < header) scrollBy({ top: top - header, behavior: 'instant' });
    else if (top + shape.pitch > innerHeight) scrollBy({ top: top + shape.pitch - innerHeight, behavior: 'instant' });
    requestAnimationFrame(() => focus(node, next));
  };

  return (
    <ul
      ref={list}
      class={layout === 'list' ? 'devices items' : 'devices cards'}
      aria-labelledby="devices-title"
      style={{
        height: `${height}px`,
        '--above': `${above}px`,
        '--columns': shape.columns,
        '--pitch': `${shape.pitch}px`,
      }}
      onKeyDown={walk}
    >
      {ids.slice(first, end).map((id, index) => {
        const device = fleet.get(id);
        if (!device) return null;
        const place = { place: first + index + 1, of: ids.length };
        return layout === 'list' ? <Item key={id} device={device} {...place} />
          : <Card key={id} device={device} room={room} {...place} />;
      })}
    </ul>
  );
}

function focus(list: HTMLElement | null, next: { current: string | null }): void {
  if (next.current === null) return;
  const link = list?.querySelector<HTMLElement>(`[data-device="${CSS.escape(next.current)}"] a`);
  if (!link) return;
  next.current = null;
  link.focus({ preventScroll: true });
}

/** In the place of the grid when it would be empty. */
export function Empty({ any, onAll }: { any: boolean; onAll: () => void }) {
  const words = texts.value.overview;
  return (
    <div class="empty">
      <p>{any ? words.noneFits : words.noDevice}</p>
      {any && <button type="button" onClick={onAll}>{words.showAll}</button>}
    </div>
  );
}
