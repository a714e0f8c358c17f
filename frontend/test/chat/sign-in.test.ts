/** Signing in at an OpenID Connect provider: the redirects, their answers, and renewal. */

import { createHash } from "node:crypto";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

type Json = Record<string, unknown>;

interface Session {
  readonly subject: string;
  readonly name: string;
  readonly logoutAddress: string | null;
  readonly token: () => Promise<string>;
}
interface Phase {
  readonly at: string;
  readonly why: { readonly error: string; readonly help: string } | null;
  readonly signIn: { readonly kind: string; readonly user: string; readonly session: Session };
}
interface Arrival {
  readonly phase: Phase;
  readonly next: Promise<Phase> | null;
}
interface Module {
  readonly arrive: () => Arrival;
  readonly goToProvider: (isSilent: boolean) => Promise<Phase>;
}

const ISSUER = "https://login.example.com";
const PAGE = "https://chat.example.com";
const NOW = Date.UTC(2030, 0, 1);

class Memory {
  readonly values = new Map<string, string>();
  isAllowed = true;
  getItem(name: string): string | null {
    return this.values.get(name) ?? null;
  }
  setItem(name: string, value: string): void {
    if (!this.isAllowed) throw new Error("storage is not allowed");
    this.values.set(name, value);
  }
  removeItem(name: string): void {
    this.values.delete(name);
  }
}

/** A provider, and the server whose configuration names it. */
class Provider {
  /** The forms of the token requests. */
  readonly requests: URLSearchParams[] = [];
  config: Json = { issuer: ISSUER, client_id: "netra-chat", scope: "openid profile", token: "id_token" };
  document: Json = {
    issuer: ISSUER,
    authorization_endpoint: `${ISSUER}/auth?tenant=a`,
    token_endpoint: `${ISSUER}/token`,
    end_session_endpoint: `${ISSUER}/logout`,
  };
  /** Changes of the claims of ID tokens. */
  claims: Json = {};
  /** Changes of the answers to token requests; undefined leaves a member out. */
  tokens: Json = {};
  /** Answers instead of tokens. */
  answer: (() => Response) | null = null;
  seconds = 3600;
  nonce: unknown;

  readonly fetch = async (url: string | URL, options?: RequestInit): Promise<Response> => {
    const path = String(url).replace(ISSUER, "");
    if (path === "/ws/config") {
      return json({ websocket_config: { auth: { oidc: this.config }, server_time: serverNow() / 1000 } });
    }
    if (path === "/.well-known/openid-configuration") return json(this.document);
    if (path !== "/token") throw new Error(`nothing is at ${path}`);
    const form = new URLSearchParams(options?.body as string | URLSearchParams);
    this.requests.push(form);
    return this.answer?.() ?? json(this.#tokens(this.requests.length, form.has("code")));
  };

  #tokens(number: number, isFirst: boolean): Json {
    const iat = Math.floor(serverNow() / 1000);
    const claims = {
      iss: ISSUER,
      aud: "netra-chat",
      sub: "user-7",
      name: "Ada Example",
      iat,
      exp: iat + this.seconds,
      nonce: isFirst ? this.nonce : undefined,
      number,
      ...this.claims,
    };
    return {
      access_token: "opaque",
      token_type: "Bearer",
      expires_in: this.seconds,
      id_token: jwt(claims),
      refresh_token: `refresh-${number}`,
      ...this.tokens,
    };
  }
}

const coded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
const jwt = (claims: Json): string => `${coded({ alg: "RS256" })}.${coded(claims)}.c2ln`;
const json = (body: unknown, status = 200): Response =>
  new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });
const claimsIn = (token: string): Json =>
  JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Json;
const numberOf = (token: string): unknown => claimsIn(token)["number"];

let skew: number;
const serverNow = (): number => Date.now() + skew;
let provider: Provider;
let place: { origin: string; pathname: string; search: string; hash: string; assign: unknown; replace: unknown };
let left: { url: URL; how: string }[];
let local: Memory;
let tab: Memory;
let page: Module;

/** Loads the page at an address; its modules are new, as after a reload. */
async function load(address = "/"): Promise<void> {
  const { pathname, search, hash } = new URL(address, PAGE);
  Object.assign(place, { pathname, search, hash });
  vi.resetModules();
  const source = new URL("../../pages/shared/arrival.ts", import.meta.url).pathname;
  page = (await import(/* @vite-ignore */ source)) as Module;
}

beforeEach(async () => {
  vi.useFakeTimers({ now: NOW, toFake: ["Date"] });
  skew = 0;
  provider = new Provider();
  local = new Memory();
  tab = new Memory();
  left = [];
  const leave = (how: string) => (url: URL) => left.push({ url: new URL(url), how });
  place = { origin: PAGE, pathname: "/", search: "", hash: "", assign: leave("assign"), replace: leave("replace") };
  vi.stubGlobal("location", place);
  vi.stubGlobal("history", {
    replaceState: (_state: unknown, _title: string, address: string) => {
      const { pathname, search, hash } = new URL(address, PAGE);
      Object.assign(place, { pathname, search, hash });
    },
  });
  vi.stubGlobal("window", {});
  vi.stubGlobal("isSecureContext", true);
  vi.stubGlobal("localStorage", local);
  vi.stubGlobal("sessionStorage", tab);
  vi.stubGlobal("fetch", provider.fetch);
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  await load("/#/t-1");
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** Leaves for the provider. Returns the parameters of the request. */
async function leave(isSilent = false): Promise<URLSearchParams> {
  const before = left.length;
  const failed = page.goToProvider(isSilent);
  await Promise.race([failed, vi.waitFor(() => expect(left).toHaveLength(before + 1))]);
  const parameters = left[before]?.url.searchParams ?? new URLSearchParams();
  provider.nonce = parameters.get("nonce");
  return parameters;
}

/** Comes back from the provider with these parameters and the state. */
async function comeBack(parameters: Record<string, string>, state?: string): Promise<Phase> {
  const sent = state ?? left.at(-1)?.url.searchParams.get("state") ?? "";
  await load(`/?${String(new URLSearchParams({ ...parameters, state: sent }))}`);
  const { phase, next } = page.arrive();
  expect(phase).toEqual({ at: "provider" });
  expect(place.search).toBe("");
  return (await next) as Phase;
}

async function signIn(): Promise<Session> {
  await leave();
  const phase = await comeBack({ code: "code-1" });
  expect(phase.at).toBe("signed-in");
  return phase.signIn.session;
}

describe("the redirect to the provider", () => {
  it("asks for a code with PKCE, and for nothing that is secret", async () => {
    const parameters = await leave();
    const attempt = JSON.parse(tab.getItem("netra.sign-in-attempt") ?? "") as Record<string, string>;
    expect(Object.fromEntries(parameters)).toEqual({
      tenant: "a",
      client_id: "netra-chat",
      redirect_uri: `${PAGE}/`,
      response_type: "code",
      scope: "openid profile",
      state: attempt["state"],
      nonce: attempt["nonce"],
      code_challenge: createHash("sha256").update(attempt["verifier"] ?? "").digest("base64url"),
      code_challenge_method: "S256",
    });
    expect(left[0]?.how).toBe("assign");
  });

  it("is silent after a reload, and not in the history of the tab", async () => {
    await signIn();
    await load("/#/t-1");
    const { phase } = page.arrive();
    expect(phase).toEqual({ at: "provider" });
    await vi.waitFor(() => expect(left).toHaveLength(2));
    expect(left[1]?.how).toBe("replace");
    expect(left[1]?.url.searchParams.get("prompt")).toBe("none");
  });

  it("does not happen before the user has signed in once", () => {
    expect(page.arrive()).toEqual({ phase: { at: "card", why: null, ended: null }, next: null });
  });

  it.each([
    ["without https", () => vi.stubGlobal("isSecureContext", false), "Signing in needs a secure connection."],
    ["without storage", () => (tab.isAllowed = false), "This browser does not allow this page to store data."],
    [
      "for a document of another issuer",
      () => (provider.document["issuer"] = "https://evil.example.com"),
      "The sign-in failed.",
    ],
    ["without an endpoint", () => delete provider.document["authorization_endpoint"], "The sign-in failed."],
    [
      "while the provider is down",
      () => vi.stubGlobal("fetch", (url: string) => (url === "/ws/config" ? provider.fetch(url) : down())),
      "The sign-in service does not answer.",
    ],
  ])("is not made %s", async (_name, prepare, error) => {
    prepare();
    const phase = await page.goToProvider(false);
    expect(phase.at).toBe("card");
    expect(phase.why?.error).toBe(error);
    expect(left).toEqual([]);
  });

  it("is not made to a provider that the server no longer has", async () => {
    local.setItem("netra.sign-in", '{"kind":"oidc"}');
    vi.stubGlobal("fetch", async () => json({ websocket_config: { auth: {} } }));
    expect(await page.arrive().next).toEqual({ at: "card", why: null, ended: null });
    expect(local.values.size).toBe(0);
  });
});

it("begins with the card where the browser blocks the storages", () => {
  for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(globalThis, name, {
      configurable: true,
      get: () => {
        throw new DOMException("not allowed", "SecurityError");
      },
    });
  }
  expect(page.arrive()).toEqual({ phase: { at: "card", why: null, ended: null }, next: null });
});

const down = (): Promise<Response> => Promise.reject(new TypeError("Failed to fetch"));

describe("the answer of the provider", () => {
  it("signs in, brings the thread back, and stores no token", async () => {
    await leave();
    const verifier = (JSON.parse(tab.getItem("netra.sign-in-attempt") ?? "") as Json)["verifier"];
    const phase = await comeBack({ code: "code-1" });
    expect(place.hash).toBe("#/t-1");
    expect(phase.signIn).toMatchObject({ kind: "oidc", user: "user-7" });
    expect(phase.signIn.session.subject).toBe("user-7");
    expect(Object.fromEntries(provider.requests[0] ?? [])).toEqual({
      grant_type: "authorization_code",
      code: "code-1",
      redirect_uri: `${PAGE}/`,
      code_verifier: verifier,
      client_id: "netra-chat",
    });
    expect([...tab.values, ...local.values]).toEqual([["netra.sign-in", '{"kind":"oidc"}']]);
  });

  it.each([
    ["access_denied", "You are not signed in."],
    ["server_error", "The sign-in service has a problem."],
    ["temporarily_unavailable", "The sign-in service has a problem."],
    ["invalid_scope", "The sign-in service refused the request."],
    ["login_required", "The sign-in service refused the request."],
  ])("%s is shown", async (error, text) => {
    await leave();
    const phase = await comeBack({ error, error_description: "words of the provider" });
    expect(phase).toMatchObject({ at: "card", why: { error: text } });
    expect(JSON.stringify(phase)).not.toContain("words");
    expect(place.hash).toBe("#/t-1");
    expect(provider.requests).toEqual([]);
  });

  it.each(["login_required", "interaction_required", "consent_required", "account_selection_required"])(
    "%s to a silent request is no problem",
    async (error) => {
      await leave(true);
      expect(await comeBack({ error })).toEqual({ at: "card", why: null, ended: null });
    },
  );

  it("is refused with another state, without a request", async () => {
    await leave();
    const phase = await comeBack({ code: "code-1" }, "foreign");
    expect(phase.why?.error).toBe("This sign-in is no longer valid.");
    expect(provider.requests).toEqual([]);
  });

  it("is refused in a tab that has begun no sign-in, and a second time", async () => {
    expect((await comeBack({ code: "code-1" }, "s")).why?.error).toBe("This sign-in is no longer valid.");
    await signIn();
    expect((await comeBack({ code: "code-1" })).why?.error).toBe("This sign-in is no longer valid.");
    expect(provider.requests).toHaveLength(1);
  });

  it("is ignored by a page without a provider", async () => {
    vi.stubGlobal("fetch", async () => json({ websocket_config: { auth: {} } }));
    expect(await comeBack({ code: "code-1" }, "s")).toEqual({ at: "card", why: null, ended: null });
    local.setItem("netra.sign-in", '{"kind":"developer","user":"dev"}');
    const signIn = { kind: "developer", user: "dev" };
    expect(await comeBack({ code: "code-1" }, "s")).toEqual({ at: "signed-in", signIn });
  });

  it("is refused from another issuer", async () => {
    await leave();
    const phase = await comeBack({ code: "code-1", iss: "https://evil.example.com" });
    expect(phase.why?.error).toBe("The sign-in failed.");
    expect(provider.requests).toEqual([]);
  });

  it.each([
    ["another nonce", () => (provider.nonce = "other"), "The sign-in failed."],
    ["another audience", () => (provider.claims = { aud: "other" }), "The sign-in failed."],
    ["another issuer", () => (provider.claims = { iss: "https://evil.example.com" }), "The sign-in failed."],
    ["no ID token", () => (provider.tokens = { id_token: undefined }), "The sign-in failed."],
    [
      "an ID token of yesterday",
      () => (provider.claims = { exp: NOW / 1000 - 86_400 }),
      "The clock of this device differs from that of the sign-in service.",
    ],
    [
      "a code that has expired",
      () => (provider.answer = () => json({ error: "invalid_grant" }, 400)),
      "This sign-in is no longer valid.",
    ],
    [
      "a client that is unknown",
      () => (provider.answer = () => json({ error: "invalid_client" }, 401)),
      "The sign-in service refused the request.",
    ],
    [
      "an error of the service",
      () => (provider.answer = () => new Response("oops", { status: 503 })),
      "The sign-in service has a problem.",
    ],
    [
      "an opaque access token, where a JWT is needed",
      () => (provider.config["token"] = "access_token"),
      "The sign-in service gave no token that this page can use.",
    ],
  ])("is refused with %s", async (_name, prepare, error) => {
    await leave();
    prepare();
    expect(await comeBack({ code: "code-1" })).toMatchObject({ at: "card", why: { error } });
    expect(local.values.size).toBe(0);
  });

  it("may have an access token for the server", async () => {
    provider.config["token"] = "access_token";
    const access = jwt({ sub: "api-user-7", exp: NOW / 1000 + 60, number: 1 });
    provider.tokens = { access_token: access };
    const session = await signIn();
    expect(session.subject).toBe("api-user-7");
    expect(await session.token()).toBe(access);
  });

  it.each([
    [{ name: "", preferred_username: "ada" }, "ada"],
    [{ name: undefined, email: "ada@example.com" }, "ada@example.com"],
    [{ name: 5 }, "user-7"],
  ])("names the user by %o", async (claims, name) => {
    provider.claims = claims;
    expect((await signIn()).name).toBe(name);
  });

  it("is valid on a device whose clock is wrong", async () => {
    skew = 5 * 3600_000;
    const session = await signIn();
    const token = await session.token();
    const end = Number(claimsIn(token)["exp"]) * 1000 - skew;
    vi.setSystemTime(end - 76_000);
    expect(await session.token()).toBe(token);
    vi.setSystemTime(end - 74_000);
    expect(numberOf(await session.token())).toBe(2);
  });

  it("has the address that ends the session at the provider", async () => {
    const { logoutAddress } = await signIn();
    const { origin, pathname, searchParams } = new URL(logoutAddress ?? "");
    expect(origin + pathname).toBe(`${ISSUER}/logout`);
    expect(searchParams.get("post_logout_redirect_uri")).toBe(`${PAGE}/`);
    expect(searchParams.get("client_id")).toBe("netra-chat");
    expect(searchParams.get("id_token_hint")).toMatch(/^ey/);
    delete provider.document["end_session_endpoint"];
    await load("/");
    expect((await signIn()).logoutAddress).toBeNull();
  });
});

describe("renewal", () => {
  const later = (ms: number): void => void vi.setSystemTime(Date.now() + ms);
  const refreshes = (): (string | null)[] =>
    provider.requests.slice(1).map((request) => request.get("refresh_token"));

  it("begins 75 seconds before the end, with the latest refresh token", async () => {
    const session = await signIn();
    const end = Number(claimsIn(await session.token())["exp"]) * 1000;
    vi.setSystemTime(end - 75_001);
    expect(numberOf(await session.token())).toBe(1);
    later(1);
    expect(numberOf(await session.token())).toBe(2);
    expect(numberOf(await session.token())).toBe(2);
    later(3600_000 - 60_000);
    expect(numberOf(await session.token())).toBe(3);
    expect(refreshes()).toEqual(["refresh-1", "refresh-2"]);
  });

  it("is made once for calls at the same time", async () => {
    const session = await signIn();
    later(3600_000 - 60_000);
    const tokens = await Promise.all(Array.from({ length: 50 }, session.token));
    expect(tokens.map(numberOf)).toEqual(Array.from({ length: 50 }, () => 2));
    expect(refreshes()).toHaveLength(1);
  });

  it("is made once, however long it takes", async () => {
    const session = await signIn();
    let answer: () => void = () => undefined;
    const isAnswered = new Promise<void>((resolve) => (answer = resolve));
    vi.stubGlobal("fetch", failing(() => isAnswered.then(() => provider.fetch(`${ISSUER}/token`))));
    later(3600_000 - 60_000);
    const first = session.token();
    later(8_000);
    const second = session.token();
    answer();
    expect([numberOf(await first), numberOf(await second)]).toEqual([2, 2]);
    expect(refreshes()).toHaveLength(1);
  });

  it("is spaced, however short the tokens last", async () => {
    provider.seconds = 5;
    const session = await signIn();
    for (let n = 0; n < 100; n += 1) {
      await session.token();
      later(100);
    }
    expect(refreshes()).toHaveLength(2);
  });

  it("does not stop when the clock is set back", async () => {
    const session = await signIn();
    later(3600_000 - 60_000);
    await session.token();
    provider.seconds = 10;
    later(-7200_000);
    skew = 7200_000;
    later(3600_000 * 2 + 3600_000);
    await session.token();
    expect(refreshes()).toHaveLength(2);
  });

  it("keeps a refresh token that is not replaced", async () => {
    const session = await signIn();
    provider.tokens = { refresh_token: undefined };
    for (let n = 0; n < 2; n += 1) {
      later(3600_000 - 60_000);
      await session.token();
    }
    expect(refreshes()).toEqual(["refresh-1", "refresh-1"]);
  });

  it("is not tried without a refresh token", async () => {
    provider.tokens = { refresh_token: undefined };
    const session = await signIn();
    later(3600_000 - 10_000);
    expect(numberOf(await session.token())).toBe(1);
    expect(refreshes()).toEqual([]);
  });

  it.each([
    ["a refusal", () => (provider.answer = () => json({ error: "invalid_grant" }, 400))],
    ["the token of another user", () => (provider.claims = { sub: "user-8" })],
    ["an answer without an ID token", () => (provider.tokens = { id_token: undefined })],
  ])("ends with %s, and the token stays", async (_name, prepare) => {
    const session = await signIn();
    prepare();
    for (let n = 0; n < 3; n += 1) {
      later(n === 0 ? 3600_000 - 60_000 : 10_000);
      expect(numberOf(await session.token())).toBe(1);
    }
    expect(refreshes()).toHaveLength(1);
  });

  it.each([
    ["no answer", () => vi.stubGlobal("fetch", failing(() => down()))],
    ["a timeout", () => vi.stubGlobal("fetch", failing(() => Promise.reject(new DOMException("", "TimeoutError"))))],
    ["an error of the service", () => (provider.answer = () => new Response("", { status: 502 }))],
    ["an error that it names", () => (provider.answer = () => json({ error: "server_error" }, 500))],
  ])("is tried again after %s", async (_name, prepare) => {
    const session = await signIn();
    prepare();
    later(3600_000 - 60_000);
    expect(numberOf(await session.token())).toBe(1);
    vi.stubGlobal("fetch", provider.fetch);
    provider.answer = null;
    expect(numberOf(await session.token()), "not at once").toBe(1);
    later(4_000);
    expect(numberOf(await session.token())).toBeGreaterThan(1);
  });

  const failing = (answer: () => Promise<Response>) => (url: string | URL) =>
    String(url).endsWith("/token") ? answer() : provider.fetch(url);
});
