// Checks JSON and says where it is wrong, in the same words and places in every browser: what
// JSON.parse says differs, and one of them names no place. Pure.

/** What is wrong; the texts are the languages' own. */
export type Wrong =
  | 'value' | 'comma' | 'comma-end' | 'colon' | 'key' | 'quote' | 'string-end' | 'escape' | 'control'
  | 'number' | 'end' | 'more';

export type Checked =
  | { ok: true; value: unknown }
  | { ok: false; wrong: Wrong; offset: number; line: number; column: number };

class Fault extends Error {
  readonly wrong: Wrong;
  readonly offset: number;

  constructor(wrong: Wrong, offset: number) {
    super(wrong);
    this.wrong = wrong;
    this.offset = offset;
  }
}

/** Deeper than the gateway takes by far, and no danger for the stack. */
const DEEPEST = 200;

/** Reads JSON (RFC 8259). Lines and columns count from 1. */
export function checkJson(text: string): Checked {
  try {
    const scanner = new Scanner(text);
    scanner.blank();
    scanner.value(0);
    scanner.blank();
    if (scanner.at < text.length) throw new Fault('more', scanner.at);
    return { ok: true, value: JSON.parse(text) };
  } catch (error) {
    const [wrong, offset] = error instanceof Fault ? [error.wrong, error.offset] : ['value' as const, 0];
    const before = text.slice(0, offset).split('\n');
    return { ok: false, wrong, offset, line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
  }
}

class Scanner {
  at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.at += found.length;
    return found;
  }

  #next(wrong: Wrong): string {
    this.blank();
    const next = this.#text[this.at];
    if (next === undefined) throw new Fault('end', this.at);
    return wrong === 'key' && next !== '"' ? this.#fail(next === "'" ? 'quote' : 'key') : next;
  }

  #fail(wrong: Wrong): never {
    throw new Fault(wrong, this.at);
  }

  blank(): void {
    this.#take(/[ \t\r\n]*/y);
  }

  value(depth: number): void {
    const next = this.#next('value');
    if (depth > DEEPEST) this.#fail('value');
    if (next === '{') this.#list('}', depth, true);
    else if (next === '[') this.#list(']', depth, false);
    else if (next === '"') this.#string();
    else if (/[-\d]/.test(next)) this.#number();
    else if (!this.#take(/(?:true|false|null)(?![\w$])/y)) this.#fail(next === "'" ? 'quote' : 'value');
  }

  #list(close: string, depth: number, named: boolean): void {
    this.at += 1;
    if (this.#next('value') === close) {
      this.at += 1;
      return;
    }
    for (;;) {
      if (named) {
        this.#next('key');
        this.#string();
        if (this.#next('colon') !== ':') this.#fail('colon');
        this.at += 1;
      }
      this.value(depth + 1);
      const next = this.#next('comma');
      const comma = this.at;
      if (next !== close && next !== ',') this.#fail('comma');
      this.at += 1;
      if (next === close) return;
      if (this.#next('value') === close) throw new Fault('comma-end', comma);
    }
  }

  #string(): void {
    const start = this.at;
    this.at += 1;
    for (;;) {
      this.#take(/[^"\\\u0000-\u001f]*/y);
      const next = this.#text[this.at];
      if (next === undefined || next === '\n') throw new Fault('string-end', start);
      if (next === '"') break;
      if (next !== '\\') this.#fail('control');
      if (!this.#take(/\\(?:["\\/bfnrt]|u[\da-fA-F]{4})/y)) this.#fail('escape');
    }
    this.at += 1;
  }

  #number(): void {
    if (!this.#take(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])/y)) this.#fail('number');
  }
}
