-- Replaces a hash at one moment: who reads it sees all of the old or all of the new.
-- KEYS[1]: the hash. ARGV: field, value, field, value and so on; at least one pair.
redis.call('DEL', KEYS[1])
for i = 1, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return #ARGV / 2
