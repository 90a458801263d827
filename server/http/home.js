// Lets somebody in, shows the looprooms and one of them live, and where they are signed in.
import { Problem, ask, askAsMe, call, live, renew, signIn, signOut } from "/live.js";

const REACTIONS = ["HEART", "CLAP", "FIRE", "PEACE", "INSPIRE", "STRENGTH", "GRATITUDE", "MINDFUL"];
const WAYS = { email: "your e-mail address and password", google: "Google", apple: "Apple" };
const ERRORS = new Map([
  ["cancelled", "You have not signed in."],
  ["account_exists", "There is an account with this address already. Sign in to it first."],
  ["invitation_required", "One comes in by invitation."],
]);
const at = (id) => document.getElementById(id);
const show = (...ids) => {
  for (const id of ["door", "rooms", "room", "account", "sign-out"]) at(id).hidden = !ids.includes(id);
};
const lines = new Map();
let room = null;

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
}

function element(kind, text, name) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function tag(title, text) { title.append(" ", element("span", text, "tag")); }

// What a form or a button does: it is off meanwhile, and what went wrong is said.
function on(id, kind, act) {
  at(id)?.addEventListener(kind, async (event) => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    button.disabled = true;
    say("");
    try {
      await act(event.currentTarget instanceof HTMLFormElement ? new FormData(event.currentTarget) : null, event.target);
    } catch (problem) { say(problem.message, true); }
    button.disabled = false;
  });
}

// The door.

async function offerProviders() {
  const { providers } = await ask("GET", "/auth/providers");
  at("providers").replaceChildren(...providers.map(({ name, start }) => {
    const link = element("a", `Continue with ${name[0].toUpperCase()}${name.slice(1)}`, "provider");
    link.href = `${start}?then=/`;
    return link;
  }));
}

function outside() {
  room = null;
  play();
  lines.clear();
  for (const id of ["doors", "lines", "sessions", "who", "ways", "title", "about", "here"]) at(id).replaceChildren();
  show("door");
}

async function inside() {
  await live({
    welcomed,
    heard,
    ended: () => { outside(); say("You have been signed out."); },
  });
}

async function welcomed() {
  if (room) await enter(room);
  else await lobby();
}

on("sign-in", "submit", async (form, element) => {
  await signIn("/auth/login", { email: form.get("email"), password: form.get("password") });
  element.reset();
  await inside();
});
on("register", "submit", async (form, element) => {
  await signIn("/auth/register", { name: form.get("name"), email: form.get("email"), password: form.get("password") });
  element.reset();
  await inside();
});
on("place", "submit", async (form, element) => {
  await ask("POST", "/waitlist", { email: form.get("email") });
  element.reset();
  say("Look into your mail: there is a link to confirm your place.");
});
on("sign-out", "click", async () => {
  await signOut();
  location.replace("/");
});

// The lobby: the looprooms, and one's account.

async function lobby() {
  show("rooms", "account", "sign-out");
  await Promise.all([doors(), account(), sessions()]);
}

// What lies elsewhere is not shown here: nobody is to be told who looks at it.
function ours(url) { return url?.startsWith("/media/"); }

function picture(url) {
  const made = document.createElement("img");
  Object.assign(made, { src: url, alt: "", width: 112, height: 63, loading: "lazy" });
  return made;
}

async function doors() {
  const found = await call("room.list", { limit: 100 });
  if (found.type === "error") return say(found.message, true);
  at("doors").replaceChildren(...found.rooms.map((one) => {
    const line = document.createElement("li");
    const words = document.createElement("div");
    const title = element("p", one.title, "title");
    if (one.live) tag(title, "live now");
    if (one.premium) tag(title, "premium");
    if (one.month_cents || one.session_cents) tag(title, "exclusive");
    words.append(title, element("p", one.description, "small"));
    if (ours(one.thumbnail)) line.append(picture(one.thumbnail));
    const button = element("button", "Enter");
    button.type = "button";
    button.addEventListener("click", () => { say(""); enter(one.id); });
    line.append(words, button);
    return line;
  }));
}

async function account() {
  const me = await askAsMe("GET", "/me");
  const tier = me.tier === "FREE" ? "" : ` You have ${me.tier.toLowerCase().replace("_", " ")}.`;
  at("who").textContent = `${me.name}${me.email ? `, ${me.email}` : ""}.${tier}`;
  at("avatar").hidden = at("faceless").hidden = !ours(me.avatar);
  if (ours(me.avatar)) at("avatar").src = me.avatar;
  at("unproven").hidden = !me.email || me.verified;
  const ways = (await askAsMe("GET", "/me/identities")).identities.map((one) => one.provider);
  at("ways").textContent = `You sign in with ${ways.map((one) => WAYS[one]).join(", or with ")}.`;
  at("add-email").hidden = ways.includes("email");
}

async function sessions() {
  const found = (await askAsMe("GET", "/me/sessions")).sessions;
  at("others").hidden = found.length < 2;
  at("sessions").replaceChildren(...found.map((one) => {
    const line = document.createElement("li");
    const words = document.createElement("div");
    const title = element("p", device(one.device));
    if (one.current) tag(title, "this one");
    words.append(title, element("p", `since ${new Date(one.created).toLocaleString()}`, "small"));
    line.append(words);
    if (!one.current) {
      const button = element("button", "Sign it out", "quiet");
      button.type = "button";
      button.addEventListener("click", () => end(`/me/sessions/${one.id}`));
      line.append(button);
    }
    return line;
  }));
}

function device(name) {
  const browser = ["Edg", "OPR", "Firefox", "Chrome", "Safari"].find((one) => name.includes(one));
  const system = ["Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux"].find((one) => name.includes(one));
  const called = { Edg: "Edge", OPR: "Opera" }[browser] ?? browser;
  return browser && system ? `${called} on ${system}` : name || "A device";
}

async function end(path) {
  try {
    await askAsMe("DELETE", path);
    await sessions();
  } catch (problem) { say(problem.message, true); }
}

on("face", "submit", async (form, element) => {
  const file = form.get("file");
  const upload = await askAsMe("POST", "/uploads", { kind: "AVATAR", type: file.type, bytes: file.size });
  await askAsMe("PUT", `/uploads/${upload.id}`, file);
  element.reset();
  await account();
});
on("faceless", "click", async () => {
  await askAsMe("DELETE", at("avatar").getAttribute("src"));
  await account();
});
on("others", "click", () => end("/me/sessions"));
on("add-email", "submit", async (form, element) => {
  await askAsMe("POST", "/me/identities/email", { email: form.get("email"), password: form.get("password") });
  element.reset();
  say("Look into your mail: the address counts as soon as you have opened the link.");
});
on("resend", "click", async () => {
  await askAsMe("POST", "/me/email/verification");
  say("The link is on its way.");
});

// A looproom.

async function enter(id) {
  const joined = await call("room.join", { room: id });
  if (joined.code === "pass_required") {
    location.assign(`/pay?room=${id}`);
    return;
  }
  if (joined.type === "error") {
    say(joined.message, true);
    if (room) await leave();
    return;
  }
  room = joined.room.id;
  show("room", "sign-out");
  at("title").textContent = joined.room.title;
  at("about").textContent = joined.preview_ends_in === undefined
    ? joined.room.description
    : `A preview: ${Math.ceil(joined.preview_ends_in)} seconds are left. Premium opens the whole looproom.`;
  lines.clear();
  at("lines").replaceChildren();
  await play(joined.room.content_url);
  joined.recent.forEach(line);
  here(joined.online);
  at("reactions").replaceChildren(...REACTIONS.map(reaction));
  counted(joined.reactions);
}

// A <video> can send no token: its browser is given a cookie, which is good for this and nothing else.
async function play(url) {
  const player = at("player");
  player.hidden = !ours(url);
  if (player.getAttribute("src") === (url ?? null)) return;
  player.removeAttribute("src");
  player.load();
  if (player.hidden) return;
  await askAsMe("POST", "/me/media-cookie");
  player.src = url;
}

async function leave() {
  const left = room;
  room = null;
  await play();
  if (left) await call("room.leave", { room: left });
  await lobby();
}

function here(online) {
  at("here").textContent = online === 1 ? "You are the first one here." : `${online} people are here.`;
}

function line(one) {
  const known = lines.get(one.id);
  const shown = known ?? document.createElement("li");
  shown.replaceChildren(element("b", one.author.name), one.removed ? element("i", "removed") : one.text);
  if (known) return;
  lines.set(one.id, shown);
  at("lines").append(shown);
  at("lines").scrollTop = at("lines").scrollHeight;
}

function reaction(kind) {
  const button = element("button", kind.toLowerCase());
  button.type = "button";
  button.dataset.kind = kind;
  button.addEventListener("click", async () => {
    const added = await call("reaction.add", { target: { kind: "looproom", id: room }, reaction: kind });
    if (added.type === "error") say(added.message, true);
    else counted(added.counts);
  });
  return button;
}

function counted(totals) {
  for (const button of at("reactions").children) {
    const total = totals?.[button.dataset.kind];
    if (total !== undefined) button.textContent = `${button.dataset.kind.toLowerCase()} ${total || ""}`;
  }
}

function heard(message) {
  if (["subscription.changed", "person.avatar"].includes(message.type) && !room) account();
  if (!room || message.room !== room) return;
  if (message.type === "chat.line" || message.type === "chat.revision") line(message.line);
  else if (message.type === "chat.removal") lines.get(message.line)?.replaceChildren(element("i", "removed"));
  else if (message.type === "room.unlocked") enter(room);
  else if (message.type === "room.media") play(message.content_url);
  else if (message.type === "room.departure") {
    room = null;
    play();
    say(message.message, true);
    lobby();
  } else if (message.type === "room.pulse") {
    const online = message.online ?? message.state?.online;
    if (online !== undefined) here(online);
    counted(message.state?.reactions);
    for (const [kind, { total }] of Object.entries(message.reactions ?? {})) counted({ [kind]: total });
  }
}

on("say", "submit", async (form, element) => {
  const text = form.get("text").trim();
  if (!text) return;
  const sent = await call("chat.send", { room, text, key: crypto.randomUUID() });
  if (sent.type === "error") throw new Problem(0, { detail: sent.message });
  line(sent.line);
  element.reset();
});
at("leave").addEventListener("click", leave);

async function start() {
  const came = new URLSearchParams(location.hash.slice(1));
  if (location.hash) history.replaceState(null, "", "/");
  if (came.has("error")) say(ERRORS.get(came.get("error")) ?? "That did not work. Try again.", true);
  try {
    await renew();
  } catch {
    show("door");
    await offerProviders();
    return;
  }
  await inside();
}

start().catch((problem) => say(problem.message, true));
