// Signs in, shows the plans, leads to the checkout, and stays in the premium rooms to see them open.
import { ask, askAsMe, call, live, renew, signIn, signOut } from "/live.js";

const rooms = new Map();
const asked = new URLSearchParams(location.search);
const at = (id) => document.getElementById(id);
const show = (id, shown) => { at(id).hidden = !shown; };
const THANKS = "Thank you. It counts as soon as the payment is confirmed, in a moment.";
const say = (text) => { at("said").textContent = text; };

function words(subscription) {
  const tier = subscription.tier.toLowerCase().replace("_", " ");
  if (!subscription.status) return subscription.tier === "FREE" ? "You have none yet." : `You have ${tier}, without end.`;
  const day = new Date(subscription.until).toLocaleString();
  if (subscription.status === "EXPIRED") return `It ended on ${day} (${subscription.reason.replace("_", " ")}).`;
  if (subscription.reason === "payment_failed") return `You have ${tier}. A payment failed: it counts until ${day}.`;
  const ends = subscription.renews ? `${subscription.status === "TRIAL" ? "your trial lasts until" : "paid until"}` : "it ends on";
  return `You have ${tier}; ${ends} ${day}.`;
}

function stand(subscription) {
  at("how").textContent = words(subscription);
  const counts = subscription.status && subscription.status !== "EXPIRED";
  if (counts && at("said").textContent === THANKS) say("Thank you.");
  show("standing", true);
  show("sign-out", true);
  show("manage", Boolean(subscription.status));
  show("plans", !counts && at("offers").childElementCount > 0);
}

async function go(path, body, button) {
  button.disabled = true;
  try {
    const { url } = await askAsMe("POST", path, body);
    location.assign(url);
  } catch (problem) {
    say(problem.message);
    button.disabled = false;
  }
}

function offer(plan) {
  const card = document.createElement("article");
  const add = (kind, text, name) => {
    const part = document.createElement(kind);
    part.textContent = text;
    if (name) part.className = name;
    card.append(part);
    return part;
  };
  add("h3", plan.name);
  const price = (plan.cents / 100).toLocaleString(undefined, { style: "currency", currency: plan.currency });
  const cost = add("p", `${price} `, "price");
  cost.append(Object.assign(document.createElement("small"), { textContent: `a ${plan.interval}` }));
  add("p", plan.trial_days ? `${plan.trial_days} days free at first` : "", "small");
  const key = crypto.randomUUID();
  const button = add("button", "Subscribe");
  button.type = "button";
  button.addEventListener("click", () => go("/payments/checkout", { tier: plan.tier, key }, button));
  at("offers").append(card);
}

// The websocket: what has been paid counts at once, and the rooms say so.

function door(id, text, open) {
  const room = rooms.get(id);
  if (!room) return;
  room.state.textContent = text;
  room.state.className = open ? "open" : "small";
  room.prices.hidden = open;
  if (open && room.prices.childElementCount && at("said").textContent === THANKS) say("Thank you.");
}

function price(room, kind, words) {
  const button = document.createElement("button");
  const key = crypto.randomUUID();
  button.type = "button";
  button.textContent = words;
  button.addEventListener("click", () => go("/payments/passes", { room: room.id, kind, key }, button));
  return button;
}

async function enter(room) {
  if (!rooms.has(room.id)) {
    const line = document.createElement("li");
    const name = document.createElement("span");
    const state = document.createElement("span");
    name.className = "name";
    name.textContent = room.title;
    line.append(name, state);
    const prices = document.createElement("span");
    prices.className = "prices";
    prices.append(...[["month", room.month_cents, "a month"], ["session", room.session_cents, "for a session"]]
      .filter(([, cents]) => cents)
      .map(([kind, cents, words]) => price(room, kind, `${(cents / 100).toLocaleString(undefined, { style: "currency", currency: "USD" })} ${words}`)));
    line.append(prices);
    at("doors").append(line);
    rooms.set(room.id, { state, prices });
  }
  const joined = await call("room.join", { room: room.id });
  if (joined.code === "pass_required") door(room.id, "opens with a pass", false);
  else if (joined.type === "error") door(room.id, joined.message, false);
  else if (joined.preview_ends_in === undefined) door(room.id, "open to you", true);
  else door(room.id, `a preview, ${Math.round(joined.preview_ends_in)} seconds left`, false);
}

function hear(message) {
  if (message.type === "subscription.changed") {
    stand(message.subscription);
    if (message.subscription.tier !== "FREE") for (const id of rooms.keys()) enter({ id });
  } else if (message.type === "pass.changed" && message.until && rooms.has(message.room)) enter({ id: message.room });
  else if (message.type === "payment.returned") say(`You had paid for that already: ${(message.cents / 100).toFixed(2)} USD go back to you.`);
  else if (message.type === "room.unlocked") door(message.room, "open to you", true);
  else if (message.type === "room.departure") door(message.room, message.message, false);
}

async function welcomed(welcome) {
  stand(welcome.person.subscription);
  const listed = await call("room.list", { limit: 100 });
  const shown = (listed.rooms ?? []).filter((one) => one.premium || one.month_cents || one.session_cents);
  const found = asked.has("room") ? await call("room.get", { room: asked.get("room") }) : {};
  if (found.room && !shown.some((one) => one.id === found.room.id)) shown.unshift(found.room);
  for (const room of shown) await enter(room);
  show("rooms", rooms.size > 0);
}

function outside() {
  rooms.clear();
  at("doors").replaceChildren();
  for (const id of ["standing", "plans", "rooms", "sign-out"]) show(id, false);
  show("sign-in", true);
}

// Signing in and out.

async function begin() {
  show("sign-in", false);
  await live({ welcomed, heard: hear, ended: () => { outside(); say("You have been signed out."); } });
}

at("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  try {
    await signIn("/auth/login", { email: form.get("email"), password: form.get("password") });
    event.target.reset();
    say("");
    await begin();
  } catch (problem) { say(problem.message); }
});
at("sign-out").addEventListener("click", async () => {
  try {
    await signOut();
    location.replace("/pay");
  } catch (problem) { say(problem.message); }
});
at("manage").addEventListener("click", (event) => go("/payments/portal", undefined, event.target));

async function start() {
  const found = await ask("GET", "/payments/plans");
  show("pretend", found.pretend);
  show("off", found.plans.length === 0);
  found.plans.forEach(offer);
  if (asked.has("paid")) say(THANKS);
  history.replaceState(null, "", "/pay");
  try { await renew(); } catch { return outside(); }
  await begin();
}

start().catch((problem) => say(problem.message));
