-- Answers the µs until a bucket is full.
local bucket = KEYS[1]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
return math.max(0, tonumber(redis.call('GET', bucket) or 0) - now)
