-- Takes from a bucket that fills up again by itself: the generic cell rate algorithm, whose one number of state is the moment
-- at which the bucket will be full. Time is the server's, so nodes need not agree about it. One key, so any cluster can run it.
-- KEYS[1]: the bucket; there is none while it is full. All of ARGV but the first are microseconds.
-- ARGV[1]: 'take' only what is there, 'charge' whatever it is (down to a debt), or only 'look'. ARGV[2]: how much.
-- ARGV[3]: the emptiest that the bucket may become by this.
-- Returns {1 when it was there and 0 when not, time until the bucket is full}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local used = math.max((tonumber(redis.call('GET', KEYS[1])) or now) - now, 0)
local after, most = used + ARGV[2], tonumber(ARGV[3])
local there = after <= most
if ARGV[1] == 'look' or (ARGV[1] == 'take' and not there) then
    return {there and 1 or 0, used}
end
-- A debt is never made smaller by asking for more.
after = math.max(math.min(after, most), used)
if after > used then
    -- Lua writes numbers with 14 digits unless told otherwise; these have 16.
    redis.call('SET', KEYS[1], string.format('%.0f', now + after), 'PX', string.format('%.0f', math.ceil(after / 1000)))
end
return {there and 1 or 0, after}
