export const overview = {
  title: 'Devices',
};
