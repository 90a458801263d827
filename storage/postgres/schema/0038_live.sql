-- Since when a looproom is live: it names the occasion of which its host's followers are told once.
alter table rooms add column live_since timestamptz;
