-- Records a use of the blocks of a chain. The first block counts as used last, so that a chain is evicted from its end.
-- Answers 0.
local used = KEYS[1]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for at, name in ipairs(ARGV) do redis.call('ZADD', used, 'XX', now - at, name) end
return 0
