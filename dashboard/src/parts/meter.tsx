// A bar that says how much of something is used.

import './meter.css';

interface Props {
  /** Names it for a screen reader. */
  label: string;
  /** 0 to 1; what is beyond is drawn full. */
  share: number;
  /** What a screen reader says instead of the percentage. */
  text?: string;
  warn?: boolean;
}

export function Meter({ label, share, text, warn = false }: Props) {
  const percent = Math.round(Math.min(Math.max(share, 0), 1) * 100);
  return (
    <div
      class={warn ? 'meter warn' : 'meter'}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
      aria-valuetext={text ?? `${percent} %`}
    >
      {share > 0 && <span style={{ width: `${percent}%` }} />}
    </div>
  );
}
