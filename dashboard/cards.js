// The cards, one per device. Each is changed in place; only what is in view counts its seconds.

import { age, reading, span } from './format.js';

// Rows that a card shows before one asks for the rest.
const FEW = 6;
// A value counts as old when this many of its usual intervals have passed, but not before:
const MISSED = 4;
const OLD_AT_LEAST = 10;
const OLD_WHEN_UNKNOWN = 60;

const byName = new Intl.Collator('en', { numeric: true });

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

class Row {
  constructor(name) {
    this.root = element('div', 'row');
    this.name = element('dt', '', name);
    this.name.title = name;
    this.value = element('dd', 'value');
    this.text = element('span', 'text');
    this.unit = element('span', 'unit');
    this.value.append(this.text, this.unit);
    this.age = element('dd', 'age');
    this.root.append(this.name, this.value, this.age);
    this.record = null;
    this.interval = null;
    this.decimals = 0;
  }

  set(record) {
    if (this.record && record.t > this.record.t) {
      const step = record.t - this.record.t;
      this.interval = this.interval === null ? step : this.interval + (step - this.interval) * 0.3;
    }
    this.record = record;
  }

  paint() {
    const shown = reading(this.record, this.decimals);
    this.decimals = shown.decimals;
    write(this.text, shown.text);
    write(this.unit, shown.unit);
    this.value.classList.toggle('words', shown.words === true);
    if (shown.words) this.value.title = shown.text;
  }

  tick(now) {
    const seconds = now - this.record.t;
    const limit = this.interval === null
      ? OLD_WHEN_UNKNOWN : Math.max(OLD_AT_LEAST, MISSED * this.interval);
    const old = seconds > limit;
    this.root.classList.toggle('old', old);
    write(this.age, old ? `${span(seconds)} old` : age(seconds));
  }
}

class Card {
  constructor(id) {
    this.id = id;
    this.root = element('li', 'card');
    this.root.dataset.device = id;
    const article = element('article');
    const head = element('header');
    this.title = element('h3', '', id);
    this.title.id = `device-${id}`;
    article.setAttribute('aria-labelledby', this.title.id);
    this.state = element('p', 'state');
    head.append(this.title, this.state);
    this.about = element('p', 'about');
    this.rows = element('dl', 'rows');
    this.more = element('button', 'more');
    this.more.type = 'button';
    this.more.hidden = true;
    this.more.addEventListener('click', () => this.#open(!this.isOpen));
    this.none = element('p', 'none', 'No reading yet.');
    article.append(head, this.about, this.none, this.rows, this.more);
    this.root.append(article);
    this.byName = new Map();
    this.facts = { connected: false, since: 0 };
    this.dirty = new Set();
    this.isOpen = false;
    this.inView = false;
  }

  setFacts(facts) {
    this.facts = facts;
    this.root.dataset.state = facts.connected ? 'online' : 'offline';
    write(this.about, [facts.model, facts.firmware].filter(Boolean).join(' · '));
    if (facts.address) this.title.title = facts.address;
  }

  setReading(name, record) {
    let row = this.byName.get(name);
    if (!row) {
      row = new Row(name);
      this.byName.set(name, row);
      const next = [...this.byName.keys()].filter((other) => byName.compare(other, name) > 0)
        .sort(byName.compare)[0];
      this.rows.insertBefore(row.root, next ? this.byName.get(next).root : null);
      this.none.hidden = true;
      this.#open(this.isOpen);
    }
    row.set(record);
    this.dirty.add(row);
  }

  // Forgets readings that the gateway no longer shows.
  keepOnly(names) {
    for (const [name, row] of this.byName) {
      if (names.has(name)) continue;
      row.root.remove();
      this.dirty.delete(row);
      this.byName.delete(name);
    }
    this.none.hidden = this.byName.size > 0;
    this.#open(this.isOpen);
  }

  paint() {
    for (const row of this.dirty) row.paint();
    this.dirty.clear();
  }

  // `current`: whether the page would hear of a change.
  tick(now, current) {
    const { connected, since } = this.facts;
    const away = connected ? 'online' : `offline for ${span(now - since)}`;
    write(this.state, current ? away : `was ${connected ? 'online' : 'offline'}`);
    for (const row of this.byName.values()) row.tick(now);
  }

  #open(open) {
    this.isOpen = open;
    const rest = this.byName.size - FEW;
    this.more.hidden = rest <= 0;
    this.rows.classList.toggle('few', !open);
    this.more.setAttribute('aria-expanded', String(open));
    write(this.more, open ? 'Show fewer' : `Show ${rest} more`);
  }
}

export class Cards {
  #list;
  #cards = new Map();
  #order = [];
  #dirty = new Set();
  #frame = 0;
  #view;
  #wanted = { which: 'all', text: '' };
  #current = true;

  // `now()`: the gateway's time in seconds.
  constructor(list, now) {
    this.#list = list;
    this.now = now;
    this.#view = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const card = this.#cards.get(target.dataset.device);
        if (!card) continue;
        card.inView = isIntersecting;
        if (isIntersecting) this.#touch(card);
      }
    }, { rootMargin: '200px' });
    setInterval(() => this.tick(), 1000);
  }

  get size() {
    return this.#cards.size;
  }

  get shown() {
    return this.#order.filter((card) => !card.root.hidden).length;
  }

  // Takes a whole snapshot: adds, changes, removes.
  replace(devices) {
    const known = new Set(devices.map((device) => device.id));
    for (const id of [...this.#cards.keys()]) {
      if (!known.has(id)) this.remove(id);
    }
    for (const device of devices) {
      this.facts(device);
      this.#cards.get(device.id).keepOnly(new Set(Object.keys(device.readings)));
      for (const [name, record] of Object.entries(device.readings)) {
        this.reading(device.id, name, record);
      }
    }
  }

  facts(device) {
    const card = this.#card(device.id);
    card.setFacts(device);
    this.#filter(card);
    this.#touch(card);
  }

  reading(id, name, record) {
    const card = this.#card(id);
    card.setReading(name, record);
    this.#touch(card);
  }

  remove(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    this.#view.unobserve(card.root);
    card.root.remove();
    this.#cards.delete(id);
    this.#dirty.delete(card);
    this.#order.splice(this.#order.indexOf(card), 1);
  }

  // Shows only some: `which` is all, online or offline; `text` stands in id, model or firmware.
  want(which, text) {
    this.#wanted = { which, text: text.trim().toLowerCase() };
    for (const card of this.#order) this.#filter(card);
  }

  // Whether what is shown is known to be so still.
  set current(current) {
    this.#current = current;
    this.tick();
  }

  tick() {
    const now = this.now();
    for (const card of this.#order) if (card.inView) card.tick(now, this.#current);
  }

  #card(id) {
    let card = this.#cards.get(id);
    if (card) return card;
    card = new Card(id);
    this.#cards.set(id, card);
    let [low, high] = [0, this.#order.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (byName.compare(this.#order[middle].id, id) < 0) low = middle + 1;
      else high = middle;
    }
    this.#list.insertBefore(card.root, this.#order[low]?.root ?? null);
    this.#order.splice(low, 0, card);
    this.#view.observe(card.root);
    return card;
  }

  #filter(card) {
    const { which, text } = this.#wanted;
    const { connected, model, firmware } = card.facts;
    const state = which === 'all' || (which === 'online') === connected;
    const words = [card.id, model, firmware].filter(Boolean).join(' ').toLowerCase();
    card.root.hidden = !(state && words.includes(text));
  }

  // Paints once per frame whatever changed, and only what is in view; the rest waits for it.
  #touch(card) {
    this.#dirty.add(card);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const now = this.now();
      for (const dirty of this.#dirty) {
        if (!dirty.inView) continue;
        dirty.paint();
        dirty.tick(now, this.#current);
        this.#dirty.delete(dirty);
      }
    });
  }
}
