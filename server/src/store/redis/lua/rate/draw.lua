-- Takes from a bucket the units that refill in `refill_us`, unless the bucket would then need more than `longest_us` to be full.
-- Without `longest_us` any amount is taken.
-- Answers 0 if the units are taken, otherwise the µs until they may be.
local bucket = KEYS[1]
local refill_us, longest_us = tonumber(ARGV[1]), tonumber(ARGV[2]) or math.huge

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(now, tonumber(redis.call('GET', bucket) or 0)) + refill_us
local wait = full - now - longest_us
if wait > 0 then return wait end
redis.call('SET', bucket, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
return 0
