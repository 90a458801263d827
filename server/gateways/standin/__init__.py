"""A stand-in for Stripe: what development and tests pay with, in pretend money, over a real socket.

It speaks as the real one does, as far as this project listens: forms with brackets, API keys, versions, idempotency keys,
lists by cursor, errors in its words, signed webhooks, and pages on which one pays. What it does not know it refuses, so that a
misspelt parameter is found here and not at the first customer.

The files
    `forms` reads bodies, `ledger` keeps objects, keys and events, `billing` moves subscriptions and payments along their
    lives, `connect` does the same for creators' accounts, `operations` lists what can be asked, `api` checks who asks and
    answers, `pages` is what people see, `deliveries` sends webhooks, `standin` puts it together and makes it misbehave.
"""
