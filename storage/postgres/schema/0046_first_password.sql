-- Who came through Google or Apple asks for an address as others ask for another one, and chooses a password for it at once: kept as
-- its hash here until the address is confirmed, and nowhere else if it never is.
alter table email_changes add column password_hash text;
