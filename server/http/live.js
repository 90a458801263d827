// What the pages have in common: they ask over HTTP and speak over the websocket, for whoever is signed in in this browser.
// The refresh token is in a cookie that no script can read; the access token lives in this variable alone.
let token = "";
let socket = null;
let calls = 0;
const waiting = new Map();

const LOST = { type: "error", code: "unavailable", message: "The connection was lost; it comes back by itself." };
const COME_BACK_FROM = 4500;

export class Problem extends Error {
  constructor(status, found) {
    super(found?.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = found?.code;
  }
}

export async function ask(method, path, body) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const sent = body === undefined || body instanceof Blob ? body : JSON.stringify(body); // a file goes as it is
  if (sent !== undefined && sent !== body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: sent });
  const text = await answer.text();
  const found = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Problem(answer.status, found);
  return found;
}

// An access token lives for some minutes, and a page may have slept longer.
export async function askAsMe(method, path, body) {
  try {
    return await ask(method, path, body);
  } catch (problem) {
    if (problem.code !== "token_expired") throw problem;
    await renew();
    return ask(method, path, body);
  }
}

export async function renew() { token = (await ask("POST", "/auth/refresh", {})).access_token; }

export async function signIn(path, body) {
  token = "";
  token = (await ask("POST", path, body)).access_token;
}

export async function signOut() {
  await ask("POST", "/auth/logout", {});
  token = "";
}

export function call(type, fields = {}) {
  if (socket?.readyState !== WebSocket.OPEN) return Promise.resolve(LOST);
  return new Promise((answered) => {
    calls += 1;
    waiting.set(calls, answered);
    socket.send(JSON.stringify({ type, id: calls, ...fields }));
  });
}

// Connects, and comes back whenever the connection is lost: `welcomed` hears each welcome, `heard` what is pushed, and
// `ended` that the session is over, here or on another device.
export async function live({ welcomed, heard, ended }) {
  const mine = new WebSocket(`${location.origin.replace("http", "ws")}/ws`, "looprooms.v1+json");
  socket = mine;
  mine.addEventListener("message", ({ data }) => {
    const message = JSON.parse(data);
    const answered = waiting.get(message.id);
    waiting.delete(message.id);
    if (answered) answered(message);
    else if (message.type === "token.expiring") renew().then(() => call("token.refresh", { token }), () => {});
    else heard(message);
  });
  mine.addEventListener("close", ({ code }) => {
    for (const answered of waiting.values()) answered(LOST);
    waiting.clear();
    if (token && code >= COME_BACK_FROM) stop(ended);
    else if (token) comeBack({ welcomed, heard, ended });
  });
  await new Promise((opened, failed) => {
    mine.addEventListener("open", opened);
    mine.addEventListener("close", () => failed(new Error(LOST.message)));
  });
  const welcome = await call("hello", { token });
  if (welcome.type !== "welcome") throw new Error(welcome.message);
  await welcomed(welcome);
}

function stop(ended) {
  token = "";
  ended();
}

function comeBack(listener) {
  setTimeout(async () => {
    try {
      await renew();
    } catch (problem) {
      if (problem.status === 401) stop(listener.ended);
      else if (token) comeBack(listener);
      return;
    }
    live(listener).catch(() => {}); // its close comes back
  }, 500 + Math.random() * 3500);
}

// A page that the browser kept whole, and shows again when one goes back, would show who was signed in then.
addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); });
