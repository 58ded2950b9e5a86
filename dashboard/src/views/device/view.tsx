// One device: what it sends, what it was told, and how its connection is.

export function DeviceView({ id }: { id: string }) {
  return <section aria-labelledby="device-title"><h2 id="device-title">{id}</h2></section>;
}
