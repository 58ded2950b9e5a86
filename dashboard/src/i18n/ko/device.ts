import type { device as en } from '../en/device.ts';

export const device: typeof en = {
  title: '장치',
};
