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
  brokerAway: (span, why) => `브로커와 ${span} 동안 연결이 끊겨 있습니다${why ? `: ${why}` : ''}.`,
  buffered: (size) => `디스크에 ${size}를 보관하고 있습니다.`,
  fullIn: (span) => `이 속도라면 ${span} 후 버퍼가 가득 찹니다.`,
  draining: (size) => `보관한 데이터를 브로커로 보내는 중입니다. ${size} 남았습니다.`,
  drainedIn: (span) => `약 ${span} 후 버퍼가 비워집니다.`,
};
