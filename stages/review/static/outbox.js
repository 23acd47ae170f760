// Answers on their way: kept in this browser until the server has them, sent in order, each once.

import { load, save } from "./server.js";

export class Outbox {
  /** `name` tells campaigns and people apart that share a browser. */
  constructor(name) {
    this.name = name;
    // What an earlier page left behind may have been sent already; its key makes a second time harmless.
    this.entries = load(name, []).map((entry) => ({ ...entry, tried: true }));
  }

  get length() { return this.entries.length; }

  holds(item) { return this.entries.some((entry) => entry.item === item); }

  push(answer) {
    this.entries.push({ ...answer, key: crypto.randomUUID(), tried: false });
    this.#keep();
  }

  /** Send the oldest by `post(item, body)`; whatever that throws leaves it here. */
  async sendFirst(post) {
    const entry = this.entries[0];
    entry.tried = true;
    const { item, tried, ...body } = entry;
    await post(item, body);
    this.drop();
    return item;
  }

  drop() {
    const [first] = this.entries.splice(0, 1);
    this.#keep();
    return first;
  }

  /** The newest answer, taken back before it ever left; null when it may have arrived. */
  takeBack() {
    if (!this.length || this.entries.at(-1).tried) return null;
    const entry = this.entries.pop();
    this.#keep();
    return entry;
  }

  #keep() { save(this.name, this.entries); }
}
