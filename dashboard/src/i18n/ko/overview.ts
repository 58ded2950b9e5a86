import { decimal } from '../../format/numbers.ts';
import type { overview as en } from '../en/overview.ts';

const listed = (names: readonly string[], more: number) =>
  more > 0 ? `${names.join(', ')} 외 ${decimal(more, 0)}대` : names.join(', ');
const lostReadings = (count: number) => `측정값 ${decimal(count, 0)}개가 유실되었습니다.`;

export const overview: typeof en = {
  title: '장치',
  strip: '게이트웨이 상태',
  was: (state) => `이전: ${state}`,
  lastKnown: (sentence) => `마지막으로 확인된 상태: ${sentence}`,
  waiting: '게이트웨이를 기다리는 중입니다.',
  summary: {
    well: '정상입니다. 측정값이 들어오는 대로 브로커에 전달되고 있습니다.',
    none: '브로커는 연결되어 있지만 연결된 장치가 없습니다.',
    fresh: '브로커가 연결되어 있습니다. 아직 접속한 장치가 없습니다.',
    connecting: '브로커에 연결하는 중입니다.',
    fault: (why) =>
      `버퍼에 쓸 수 없습니다: ${why}. 게이트웨이가 수신 확인을 하지 않은 값은 장치가 보관합니다.`,
    ledger: (why) =>
      `명령을 기록할 수 없습니다: ${why}. 디스크에 여유가 생기거나 복구될 때까지 새 명령은 거부됩니다.`,
    damaged: (count) => `손상된 명령 기록 ${decimal(count, 0)}건을 따로 보관했습니다. 자세한 내용은 로그에 있습니다.`,
    away: (since, why) =>
      `브로커 연결이 ${since ? `${since}째 ` : ''}끊겨 있습니다${why ? `: ${why}` : ''}.`,
    kept: (batches, size) => `측정값은 디스크에 보관 중입니다(배치 ${decimal(batches, 0)}개, ${size}).`,
    nothing: '아직 대기 중인 값은 없습니다.',
    full: '버퍼가 가득 찼습니다.',
    fullIn: (time) => `이 속도라면 ${time} 후 버퍼가 가득 찹니다.`,
    agedIn: (time) => `가장 오래된 측정값이 ${time} 후 보관 기한에 이릅니다.`,
    draining: (batches, size) =>
      `브로커가 다시 연결되어 버퍼에 쌓인 값을 보내는 중입니다(남은 배치 ${decimal(batches, 0)}개, ${size}).`,
    emptyIn: (time) => `약 ${time} 후 모두 보냅니다.`,
    lost: lostReadings,
    arrive: (lost) => `측정값이 들어오는 대로 브로커에 전달되고 있습니다. ${lostReadings(lost)}`,
    rejects: (count) =>
      `최근 1분 동안 배치 ${decimal(count, 0)}개가 거부되었습니다. 이유는 장치 화면에 있습니다.`,
    push: (name, why, queued) =>
      `${name}(으)로 보내는 푸시가 실패하고 있습니다${why ? `: ${why}` : ''}. 측정값 ${decimal(queued, 0)}개가 대기 중입니다.`,
    silent: (count, names) => (count === 1
      ? `${names[0] ?? ''} 장치가 연결되어 있지만 값을 보내지 않습니다.`
      : `장치 ${decimal(count, 0)}대가 연결되어 있지만 값을 보내지 않습니다: ${listed(names, count - names.length)}.`),
    offline: (count, names) => (count === 1
      ? `${names[0] ?? ''} 장치가 오프라인입니다.`
      : `장치 ${decimal(count, 0)}대가 오프라인입니다: ${listed(names, count - names.length)}.`),
  },
  figures: {
    broker: '브로커',
    uplink: { connected: '연결됨', connecting: '연결 중', disconnected: '끊김' },
    lasting: (time) => `${time}째`,
    buffer: '버퍼',
    empty: '비어 있음',
    batches: (count) => `배치 ${decimal(count, 0)}개`,
    share: (used, max) => `${max} 중 ${used}`,
    oldest: (time) => `가장 오래된 값 ${time} 전`,
    filled: '버퍼 사용량',
    lasts: (time) => `브로커 없이 ${time} 보관 가능`,
    fullIn: (time) => `${time} 후 가득 참`,
    emptyIn: (time) => `${time} 후 비워짐`,
    full: '가득 참',
    written: (size) => `오늘 ${size} 기록`,
    rates: '초당 측정값',
    in: '수신',
    out: '송신',
    lost: '유실된 측정값',
    none: '없음',
    rejects: '거부된 배치',
    sinceStart: '시작 이후',
    gaps: (count) => `순번 누락 ${decimal(count, 0)}건`,
    devices: '온라인 장치',
    of: (known) => `전체 ${decimal(known, 0)}대`,
  },
  all: '전체',
  which: '표시할 장치',
  find: '장치 찾기',
  findHint: '장치 찾기 ( / )',
  sort: '정렬',
  orders: { name: '이름순', state: '문제 장치 먼저', newest: '최근 수신순', oldest: '오래된 수신순' },
  layout: '보기',
  layouts: { cards: '카드', list: '목록' },
  shown: (shown, all) => `전체 ${decimal(all, 0)}대 중 ${decimal(shown, 0)}대 표시`,
  noDevice: '아직 접속한 장치가 없습니다. 장치가 접속하면 바로 여기에 나타납니다.',
  noneFits: '조건에 맞는 장치가 없습니다.',
  showAll: '모든 장치 보기',
  noReading: '아직 측정값이 없습니다.',
  more: (count) => `외 ${count}개`,
  heard: '마지막 수신',
  awaySince: (time) => `${time}째`,
  old: (time) => `${time} 전`,
};
