// Asking the gateway for something once.

/** The gateway said no, or nothing; the message is for the person at the page. */
export class ApiError extends Error {
  /** 0: no answer at all. */
  readonly status: number;
  /** Seconds to wait before the next try, where the gateway asks for that. */
  readonly retryAfter: number | null;

  constructor(status: number, message: string, retryAfter: number | null = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let unauthorised = (): void => undefined;

/** Is called when an answer says that nobody is signed in any more. */
export function whenUnauthorised(heed: () => void): void {
  unauthorised = heed;
}

let shut = false;

/**
 * While nobody may see anything, nothing is asked: the gateway would refuse it, and the browser would
 * note each refusal as an error. What is asked then fails as if there were no answer.
 */
export function shutDoor(closed: boolean): void {
  shut = closed;
}

/** Who is there may be asked at any time. */
export const SESSION = '/api/v1/session';

/** Longer than any answer takes that does not wait for a device. */
const DEADLINE = 10_000;

async function ask<T>(path: string, init: RequestInit): Promise<T> {
  if (shut && path !== SESSION) throw new ApiError(0, 'nobody is signed in');
  let response: Response;
  try {
    response = await fetch(path, { ...init, signal: init.signal ?? AbortSignal.timeout(DEADLINE) });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiError(0, String(error));
  }
  const body: unknown = await response.json().catch(() => null);
  if (response.ok) return body as T;
  if (response.status === 401 && path !== SESSION) unauthorised();
  const told = (body as { error?: unknown } | null)?.error;
  const wait = Number(response.headers.get('retry-after') ?? NaN);
  throw new ApiError(
    response.status,
    typeof told === 'string' ? told : response.statusText,
    Number.isFinite(wait) ? wait : null,
  );
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

export async function remove(path: string): Promise<void> {
  await ask<unknown>(path, { method: 'DELETE' });
}

/** The path of a device's documents, or of what is below it. */
export function devicePath(device: string, below = ''): string {
  return `/api/v1/devices/${encodeURIComponent(device)}${below}`;
}
