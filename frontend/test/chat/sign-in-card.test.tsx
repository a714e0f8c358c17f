/** The card for signing in, and the gate around a page. */

import { act, createElement, useEffect, type ComponentType, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

type Props = Record<string, unknown>;

const OIDC = { issuer: "https://login.example.com/realms/a", client_id: "c", scope: "openid", token: "id_token" };
const CARD = { at: "card", why: null, ended: null };

let page: HTMLElement;
let root: Root;
let oidc: unknown;
let Gate: ComponentType<Props>;

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  oidc = OIDC;
  vi.stubGlobal("fetch", async (url: string) => {
    if (url !== "/ws/config") throw new TypeError("Failed to fetch");
    return new Response(JSON.stringify({ websocket_config: { auth: { oidc } } }));
  });
  vi.stubGlobal("isSecureContext", true);
  localStorage.clear();
  sessionStorage.clear();
  vi.resetModules();
  // The modules that are loaded anew must have the React that renders them.
  vi.doMock("react", async () => import("react"));
  const source = new URL("../../pages/shared/SignInGate.tsx", import.meta.url).pathname;
  Gate = ((await import(/* @vite-ignore */ source)) as { SignInGate: ComponentType<Props> }).SignInGate;
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  vi.unstubAllGlobals();
});

type SignedIn = Readonly<Record<"signOut" | "signInAgain", (() => void) | undefined>> & {
  readonly signIn: { readonly user: string };
};

let inside: SignedIn;

const DRAFT = 'netra.draft ["user-7","t","x"]';

/** A page that stores an unfinished text when it goes, as an open form does. */
function Inside({ user }: { readonly user: string }): string {
  useEffect(() => () => localStorage.setItem(DRAFT, "of the form"), []);
  return `inside as ${user}`;
}

async function show(phase: Props, next: Promise<Props> | null = null): Promise<void> {
  const children = (signedIn: SignedIn): ReactNode => {
    inside = signedIn;
    return createElement(Inside, { key: signedIn.signIn.user, user: signedIn.signIn.user });
  };
  await act(async () =>
    root.render(createElement(Gate, { arrival: { phase, next }, title: "Sign in to chat", children })),
  );
}

const text = (): string => page.textContent;
const buttons = (): string[] => [...page.querySelectorAll("button.primary, button.secondary")].map((b) => b.textContent);
const click = async (name: string): Promise<void> => {
  const found = [...page.querySelectorAll("button")].find((button) => button.textContent === name);
  await act(async () => found?.click());
};
/** What the browser reports in this tab when another tab has stored or removed the sign-in. */
const fromOtherTab = (value: string | null): Promise<void> =>
  act(async () => {
    if (value === null) localStorage.removeItem("netra.sign-in");
    else localStorage.setItem("netra.sign-in", value);
    window.dispatchEvent(new StorageEvent("storage", { key: "netra.sign-in" }));
  });

const session = { subject: "user-7", logoutAddress: "https://login.example.com/logout", token: async () => "t" };
const ada = { at: "signed-in", signIn: { kind: "oidc", user: "user-7", session } };

it("has the provider first, and the other ways behind it", async () => {
  await show(CARD);
  expect(buttons()).toEqual(["Sign in", "Sign in as developer", "Sign in with token"]);
  expect(page.querySelectorAll("details")).toHaveLength(2);
  expect(text()).toContain("You sign in at login.example.com.");
});

it("has the other ways only, without a provider", async () => {
  oidc = undefined;
  await show(CARD);
  expect(buttons()).toEqual(["Sign in as developer", "Sign in with token"]);
  expect(page.querySelectorAll("details")).toHaveLength(1);
});

it("has the other ways while the server does not answer", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
  await show(CARD);
  expect(buttons()).toContain("Sign in with token");
});

it("says why a sign-in failed, and offers to try again", async () => {
  await show({ at: "provider" }, Promise.resolve({ ...CARD, why: { error: "It failed.", help: "Please." } }));
  expect(page.querySelector("[role=alert]")?.textContent).toBe("It failed. Please.");
  expect(buttons()[0]).toBe("Try again");
  await click("Try again");
  await act(async () => vi.waitFor(() => expect(text()).toContain("The sign-in service does not answer.")));
  expect(buttons()[0]).toBe("Try again");
});

it("is the card again when Back leads to the page from the provider", async () => {
  await show({ at: "provider" });
  expect(text()).toBe("Signing in…");
  await act(async () => {
    window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: false }));
  });
  expect(text()).toBe("Signing in…");
  await act(async () => {
    window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
  });
  expect(buttons()[0]).toBe("Sign in");
});

it("signs out of the page, and offers to sign out of the provider", async () => {
  localStorage.setItem("netra.sign-in", '{"kind":"oidc"}');
  await show(ada);
  expect(text()).toBe("inside as user-7");
  await act(async () => inside.signOut?.());
  expect(localStorage.getItem("netra.sign-in")).toBeNull();
  expect(text()).toContain("You are signed out of this page, but not of login.example.com.");
  expect(buttons().slice(0, 2)).toEqual(["Sign in", "Sign out there too"]);
  expect(document.activeElement?.textContent).toBe("Sign in");
});

it("leaves nothing that the user wrote at a sign-out", async () => {
  const others = { 'netra.draft ["user-70","t","x"]': "1", 'netra.draft [': "2", "netra.theme": "dark" };
  const own = { [DRAFT]: "3", 'netra.unsent ["user-7","t"]': "4", 'netra.agents ["user-7"]': "5" };
  for (const [name, value] of Object.entries({ ...others, ...own })) localStorage.setItem(name, value);
  await show(ada);
  await act(async () => inside.signOut?.());
  expect(Object.fromEntries(Object.entries(localStorage))).toEqual(others);
});

it("leaves nothing of the user who signs out in another tab", async () => {
  await show(ada);
  const signedOut = (user: string): Promise<void> =>
    act(async () => {
      window.dispatchEvent(new StorageEvent("storage", { key: "netra.signed-out", newValue: JSON.stringify(user) }));
      window.dispatchEvent(new StorageEvent("storage", { key: "netra.signed-out", newValue: null }));
    });
  localStorage.setItem(DRAFT, "being written");
  await signedOut("user-7"); // with a token of its own, this tab stays signed in
  expect(localStorage.getItem(DRAFT)).toBe("being written");
  await fromOtherTab(null);
  expect(localStorage.getItem(DRAFT)).toBe("of the form");
  await signedOut("user-70");
  expect(localStorage.getItem(DRAFT)).toBe("of the form");
  await signedOut("user-7");
  expect(localStorage.getItem(DRAFT)).toBeNull();
});

it("goes to the provider when the sign-in has ended", async () => {
  await show(ada);
  await act(async () => inside.signInAgain?.());
  await act(async () => vi.waitFor(() => expect(text()).toContain("The sign-in service does not answer.")));
});

it("follows the sign-out of another tab, and keeps its own tokens otherwise", async () => {
  await show(ada);
  await fromOtherTab('{"kind":"oidc"}');
  expect(text()).toBe("inside as user-7");
  await fromOtherTab(null);
  expect(buttons()[0]).toBe("Sign in");
  // Signed in again in another tab: this tab asks the provider for tokens of its own.
  await fromOtherTab('{"kind":"oidc"}');
  await act(async () => vi.waitFor(() => expect(text()).toContain("The sign-in service does not answer.")));
  await fromOtherTab('{"kind":"developer","user":"dev"}');
  expect(text()).toBe("inside as dev");
});

it("has no sign-out of its own in an embedding page", async () => {
  vi.stubGlobal("netraTrio", { getToken: () => "a.eyJzdWIiOiJib2IifQ.c" });
  await show({ at: "host" });
  await act(async () => vi.waitFor(() => expect(text()).toBe("inside as bob")));
  expect(inside.signOut).toBeUndefined();
});
