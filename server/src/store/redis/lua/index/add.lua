-- Adds a member to an index, whose order is when members were added; a member that is there stays in its place.
-- Answers up to `checked` members at random, for the caller to check.
local index = KEYS[1]
local member, ttl_ms, checked = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
redis.call('ZADD', index, 'NX', time[1] * 1000000 + time[2], member)
redis.call('PEXPIRE', index, ttl_ms)
return redis.call('ZRANDMEMBER', index, checked)
