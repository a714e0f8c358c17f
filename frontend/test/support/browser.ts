/** A browser in memory: tabs with storage, locks, channels and page events. */

import {
  createClient,
  memoryStorage,
  type ClientOptions,
  type NetraClient,
  type PageEvent,
  type Ports,
  type Storage,
} from "../../src/index.js";
import { Clock } from "./clock.js";
import { FakeServer, tokenFor } from "./server.js";

interface Waiting {
  readonly granted: () => void;
  readonly lost: () => void;
}

export class Browser {
  readonly clock = new Clock();
  readonly server = new FakeServer(this.clock);
  readonly shared = memoryStorage();
  /** From 0 to 1: where in its span each wait lies. */
  chance = 0.5;
  hasLocks = true;
  /** What is said over a channel meanwhile is heard by nobody. */
  isDeaf = false;
  #ids = 0;
  #locks = new Map<string, Waiting[]>();
  #channels = new Map<string, Set<(message: unknown) => void>>();

  tab(storage: Storage = memoryStorage()): Tab {
    return new Tab(this, storage);
  }

  uniqueId(): string {
    this.#ids += 1;
    return `id-${this.#ids}`;
  }

  readonly locks: NonNullable<Ports["locks"]> = {
    request: (name, granted, lost) => this.#lock(name, { granted, lost }, false),
    steal: (name, granted, lost) => this.#lock(name, { granted, lost }, true),
  };

  #lock(name: string, me: Waiting, isStolen: boolean): () => void {
    const queue = this.#locks.get(name) ?? [];
    this.#locks.set(name, queue);
    if (isStolen) {
      const robbed = queue.shift();
      if (robbed !== undefined) setImmediate(robbed.lost);
      queue.unshift(me);
    } else {
      queue.push(me);
    }
    const grant = (): void => {
      const first = queue[0];
      if (first !== undefined) setImmediate(() => queue[0] === first && first.granted());
    };
    if (queue[0] === me) grant();
    return () => {
      const wasFirst = queue[0] === me;
      const index = queue.indexOf(me);
      if (index >= 0) queue.splice(index, 1);
      if (wasFirst) grant();
    };
  }

  readonly openChannel: NonNullable<Ports["openChannel"]> = (name, onMessage) => {
    const all = this.#channels.get(name) ?? new Set();
    this.#channels.set(name, all);
    all.add(onMessage);
    return {
      post: (message) => {
        const others = [...all].filter((other) => other !== onMessage);
        const copy: unknown = structuredClone(message);
        if (this.isDeaf) return;
        for (const other of others) void Promise.resolve().then(() => all.has(other) && other(copy));
      },
      close: () => void all.delete(onMessage),
    };
  };
}

export class Tab {
  readonly browser: Browser;
  readonly storage: Storage;
  readonly #events = new Map<PageEvent, Set<() => void>>();
  #client: NetraClient | null = null;
  #missed: (() => void)[] | null = null;
  token: string | (() => Promise<string>) = tokenFor("alice");
  tokensGiven = 0;

  constructor(browser: Browser, storage: Storage) {
    this.browser = browser;
    this.storage = storage;
  }

  get ports(): Ports {
    const { browser } = this;
    return {
      WebSocket: browser.server.WebSocket,
      http: browser.server.http,
      timers: browser.clock.timers,
      random: () => browser.chance,
      uniqueId: () => browser.uniqueId(),
      shared: browser.shared,
      tab: this.storage,
      onPage: (event, run) => {
        const all = this.#events.get(event) ?? new Set();
        this.#events.set(event, all);
        all.add(run);
        return () => void all.delete(run);
      },
      resolve: (address, base = "https://page.example/chat") => new URL(address, base).href,
      ...(browser.hasLocks ? { locks: this.#locks, openChannel: this.#openChannel } : {}),
    };
  }

  readonly #locks: NonNullable<Ports["locks"]> = {
    request: (name, granted, lost) => this.browser.locks.request(name, granted, () => this.#hear(lost)),
    steal: (name, granted, lost) => this.browser.locks.steal(name, granted, () => this.#hear(lost)),
  };

  readonly #openChannel: NonNullable<Ports["openChannel"]> = (name, onMessage) => {
    const channel = this.browser.openChannel(name, (message) => this.#hear(() => onMessage(message)));
    return { ...channel, post: (message) => this.#missed ?? channel.post(message) };
  };

  #hear(run: () => void): void {
    if (this.#missed === null) run();
    else this.#missed.push(run);
  }

  /** The browser puts the page to sleep: it hears nothing and says nothing until it wakes up. */
  freeze(): void {
    this.#missed = [];
  }

  thaw(): void {
    const missed = this.#missed ?? [];
    this.#missed = null;
    for (const hear of missed) hear();
  }

  get listeners(): number {
    return [...this.#events.values()].reduce((sum, all) => sum + all.size, 0);
  }

  page(event: PageEvent): void {
    for (const run of [...(this.#events.get(event) ?? [])]) run();
  }

  readonly getToken = (): Promise<string> => {
    this.tokensGiven += 1;
    return typeof this.token === "string" ? Promise.resolve(this.token) : this.token();
  };

  /** Opens the page in this tab and waits until it has a connection. */
  async open(options: ClientOptions = {}): Promise<NetraClient> {
    this.#client = createClient({ getToken: this.getToken, ...options }, this.ports);
    this.#client.connect();
    await this.browser.clock.advance(10);
    return this.#client;
  }

  /** The page goes: its timers, sockets, locks and channels with it, and nothing is told to it. */
  unload(): void {
    this.page("hide");
    this.#client?.close();
    this.#events.clear();
    this.#client = null;
  }

  async reload(options: ClientOptions = {}): Promise<NetraClient> {
    this.unload();
    return this.open(options);
  }
}
