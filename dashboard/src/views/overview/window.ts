// Which rows of a long grid are in view. Pure.

export interface Layout {
  count: number;
  columns: number;
  /** Pixels from the top of one row to the top of the next. */
  pitch: number;
}

export interface Part {
  /** The first item to draw, and the one after the last. */
  first: number;
  end: number;
  /** Pixels above the first. */
  above: number;
  /** Pixels of all rows together. */
  height: number;
}

/** How many columns of at least `least` pixels fit into `width`. */
export function columnsIn(width: number, least: number, gap: number): number {
  return Math.max(1, Math.floor((width + gap) / (least + gap)));
}

/** What to draw of a grid whose top is `top` pixels below the top of a view that is `height` high. */
export function part({ count, columns, pitch }: Layout, top: number, height: number, margin: number): Part {
  const rows = Math.ceil(count / columns);
  const within = (row: number) => Math.min(rows, Math.max(0, row));
  const firstRow = within(Math.floor((-top - margin) / pitch));
  const endRow = Math.max(firstRow, within(Math.ceil((height - top + margin) / pitch)));
  return {
    first: firstRow * columns,
    end: Math.min(count, endRow * columns),
    above: firstRow * pitch,
    height: rows * pitch,
  };
}

/** Where a key leads from item `at`; null: nowhere. */
export function step(key: string, at: number, { count, columns }: Layout): number | null {
  const target = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns,
    Home: 0, End: count - 1 }[key];
  return target === undefined || target < 0 || target >= count || target === at ? null : target;
}
