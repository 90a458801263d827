"""The page on which one chooses a plan, and sees it count: HTML made here, a style and a script of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from server.http.documents import TITLE

STYLE: Final = Path(__file__).with_name("pay.css")
SCRIPT: Final = Path(__file__).with_name("pay.js")
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{TITLE}: premium</title>
<link rel="stylesheet" href="/home.css">
<link rel="stylesheet" href="/pay.css">
<script type="module" src="/pay.js"></script>
</head>
<body>
<header>
<p class="brand"><a href="/">{TITLE}</a></p>
<nav aria-label="Pages"><a href="/">Looprooms</a> <a href="/docs">For developers</a> <button id="sign-out" class="quiet" type="button" hidden>Sign out</button></nav>
</header>
<main>
<h1>Premium</h1>
<p id="pretend" class="note" hidden>This server has a stand-in for Stripe: the money is pretended, nothing is charged.</p>
<p id="off" class="note" hidden>Nothing can be paid on this server.</p>
<noscript><p class="note">This page needs its script: it speaks to the server for you.</p></noscript>
<p id="said" role="status"></p>
<form id="sign-in" hidden>
<h2>Sign in</h2>
<p class="small">You have no account yet? <a href="/">Make one</a>, then come back.</p>
<label>E-mail <input name="email" type="email" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button>
</form>
<section id="standing" hidden>
<h2>Your subscription</h2>
<p id="how"></p>
<p><button id="manage" type="button" hidden>Manage it</button></p>
</section>
<section id="plans" hidden>
<h2>Choose a plan</h2>
<div id="offers"></div>
</section>
<section id="rooms" hidden>
<h2>Premium and exclusive looprooms</h2>
<ul id="doors"></ul>
</section>
</main>
</body>
</html>
"""
