-- Removes a member from an index if it was added more than `spared_us` ago. The object of a younger member may be about to be created.
-- Answers 0.
local index = KEYS[1]
local member, spared_us = ARGV[1], tonumber(ARGV[2])

local time = redis.call('TIME')
local added = redis.call('ZSCORE', index, member)
if added and tonumber(added) + spared_us < time[1] * 1000000 + time[2] then
  redis.call('ZREM', index, member)
end
return 0
