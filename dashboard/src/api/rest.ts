// Asking the gateway for something once.

/** The gateway said no, or nothing; the message is for the person at the page. */
export class ApiError extends Error {
  /** 0: no answer at all. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Longer than any answer takes that does not wait for a device. */
const DEADLINE = 10_000;

async function ask<T>(path: string, init: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, signal: init.signal ?? AbortSignal.timeout(DEADLINE) });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiError(0, String(error));
  }
  const body: unknown = await response.json().catch(() => null);
  if (response.ok) return body as T;
  const told = (body as { error?: unknown } | null)?.error;
  throw new ApiError(response.status, typeof told === 'string' ? told : response.statusText);
}

export function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return ask<T>(path, signal ? { signal } : {});
}

export function post<T>(path: string, body: unknown): Promise<T> {
  return ask<T>(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
}

/** The path of a device's documents, or of what is below it. */
export function devicePath(device: string, below = ''): string {
  return `/api/v1/devices/${encodeURIComponent(device)}${below}`;
}
