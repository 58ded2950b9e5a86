import type { words as en } from '../en/words.ts';

export const words: typeof en = {
  yes: '예',
  no: '아니요',
  bytes: (count) => `${count}바이트`,
  span: { s: '초', min: '분', h: '시간', d: '일' },
  now: '방금',
  state: { online: '온라인', stale: '지연', offline: '오프라인', never: '접속한 적 없음' },
};
