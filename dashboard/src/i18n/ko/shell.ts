import type { shell as en } from '../en/shell.ts';

export const shell: typeof en = {
  skip: '본문으로 건너뛰기',
  views: '화면',
  overview: '장치',
  gateway: '게이트웨이',
  language: '언어',
  link: { connecting: '연결 중', live: '실시간', lost: '연결 끊김' },
  lostSince: (time) => `${time}부터 게이트웨이와 연결이 끊겼습니다. 보이는 값은 그때의 값입니다.`,
  unreachable: '게이트웨이에 연결할 수 없습니다.',
  retryIn: (seconds) => `${seconds}초 후 다시 시도합니다.`,
  retrying: '다시 시도하는 중입니다.',
  retry: '지금 다시 시도',
  waiting: '게이트웨이를 기다리는 중입니다.',
};
