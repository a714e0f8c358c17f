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

interface LockRequest {
  readonly granted: () => void;
  readonly lost: () => void;
}

export class Browser {
  readonly clock: Clock;
  readonly server: FakeServer;
  readonly shared = memoryStorage();
  /** From 0 to 1: the value of each random number. */
  chance = 0.5;
  hasLocks = true;
  /** True: messages over channels are lost. */
  losesMessages = false;
  #ids: number;
  #locks = new Map<string, LockRequest[]>();
  #channels = new Map<string, Set<(message: unknown) => void>>();

  /** @param other Another browser at the same server. */
  constructor(other?: Browser) {
    this.clock = other?.clock ?? new Clock();
    this.server = other?.server ?? new FakeServer(this.clock);
    this.#ids = other === undefined ? 0 : 1_000_000;
  }

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

  #lock(name: string, own: LockRequest, isStolen: boolean): () => void {
    const queue = this.#locks.get(name) ?? [];
    this.#locks.set(name, queue);
    if (isStolen) {
      const previous = queue.shift();
      if (previous !== undefined) setImmediate(previous.lost);
      queue.unshift(own);
    } else {
      queue.push(own);
    }
    const grant = (): void => {
      const first = queue[0];
      if (first !== undefined) setImmediate(() => queue[0] === first && first.granted());
    };
    if (queue[0] === own) grant();
    return () => {
      const wasFirst = queue[0] === own;
      const index = queue.indexOf(own);
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
        if (this.losesMessages) return;
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
  #suspended: (() => void)[] | null = null;
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
      stream: browser.server.events.stream,
      upload: browser.server.files.upload,
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
    request: (name, granted, lost) => this.browser.locks.request(name, granted, () => this.#deliver(lost)),
    steal: (name, granted, lost) => this.browser.locks.steal(name, granted, () => this.#deliver(lost)),
  };

  readonly #openChannel: NonNullable<Ports["openChannel"]> = (name, onMessage) => {
    const channel = this.browser.openChannel(name, (message) => this.#deliver(() => onMessage(message)));
    return { ...channel, post: (message) => this.#suspended ?? channel.post(message) };
  };

  #deliver(run: () => void): void {
    if (this.#suspended === null) run();
    else this.#suspended.push(run);
  }

  /** The browser suspends the page: it receives and sends nothing until it is resumed. */
  suspend(): void {
    this.#suspended = [];
  }

  resume(): void {
    const callbacks = this.#suspended ?? [];
    this.#suspended = null;
    for (const run of callbacks) run();
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

  /** Opens the page in this tab and gives it time to connect. */
  async open(options: ClientOptions = {}): Promise<NetraClient> {
    this.#client = createClient({ getToken: this.getToken, ...options }, this.ports);
    this.#client.connect();
    await this.browser.clock.advance(10);
    return this.#client;
  }

  /** Closes the page with its timers, sockets, locks and channels; nothing is delivered to it any more. */
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
