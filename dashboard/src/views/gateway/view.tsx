// The machine, the log, the settings in force, and which limits are near.

import { texts } from '../../i18n/index.ts';

export function GatewayView() {
  return (
    <section aria-labelledby="gateway-title"><h2 id="gateway-title">{texts.value.gateway.title}</h2></section>
  );
}
