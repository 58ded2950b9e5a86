// The connection to the gateway: keeps it, notices at once when it is gone, and comes back.

import type { Message } from './types.ts';

// The gateway says something each second; this much silence means that it is gone.
const SILENCE = 4000;
const FIRST_DELAY = 500;
const LONGEST_DELAY = 15000;

export interface Handlers {
  message(message: Message): void;
  /** The snapshot has come: from now on what is shown is so. */
  live(): void;
  /** Both in milliseconds of this machine's clock. */
  lost(at: number, retryAt: number): void;
}

export class Feed {
  #socket: WebSocket | null = null;
  #delay = FIRST_DELAY;
  #heard = 0;
  #timer = 0;
  #paused = false;
  readonly #handlers: Handlers;

  constructor(handlers: Handlers) {
    this.#handlers = handlers;
    setInterval(() => this.#watch(), 1000);
    addEventListener('online', () => {
      if (!this.#paused) this.retry();
    });
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) this.#watch();
    });
    this.#open();
  }

  /** Tries now instead of later. Does nothing while a connection stands or is being made. */
  retry(): void {
    this.#paused = false;
    if (!this.#socket) this.#open();
  }

  /** Stops trying until {@link retry}. */
  pause(): void {
    this.#paused = true;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (socket) this.#drop(socket);
  }

  #open(): void {
    clearTimeout(this.#timer);
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(`${scheme}//${location.host}/api/v1/stream`);
    this.#socket = socket;
    this.#heard = Date.now();
    socket.onmessage = ({ data }) => {
      this.#heard = Date.now();
      const message = JSON.parse(data as string) as Message;
      if (message.type === 'snapshot') {
        this.#delay = FIRST_DELAY;
        this.#handlers.live();
      }
      this.#handlers.message(message);
    };
    socket.onclose = () => this.#drop(socket);
  }

  #watch(): void {
    if (this.#socket && Date.now() - this.#heard > SILENCE) this.#drop(this.#socket);
  }

  #drop(socket: WebSocket): void {
    if (this.#socket !== socket) return;
    this.#socket = null;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close();
    // Jitter, so that a thousand pages do not come back in the same instant.
    const wait = this.#delay * (0.5 + Math.random());
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY);
    if (!this.#paused) this.#timer = window.setTimeout(() => this.#open(), wait);
    this.#handlers.lost(Date.now(), Date.now() + wait);
  }
}
