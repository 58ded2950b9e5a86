export const shell = {
  skip: 'Skip to the content',
  views: 'Views',
  overview: 'Devices',
  gateway: 'Gateway',
  language: 'Language',
  link: { connecting: 'Connecting', live: 'Live', lost: 'Not connected' },
  lostSince: (time: string) =>
    `No connection to the gateway since ${time}. What you see is how it was then.`,
  unreachable: 'The gateway cannot be reached.',
  retryIn: (seconds: number) => `Next attempt in ${seconds} s.`,
  retrying: 'Trying now.',
  retry: 'Try now',
  waiting: 'Waiting for the gateway.',
};
