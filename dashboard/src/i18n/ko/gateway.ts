import type { gateway as en } from '../en/gateway.ts';

export const gateway: typeof en = {
  title: '게이트웨이',
};
