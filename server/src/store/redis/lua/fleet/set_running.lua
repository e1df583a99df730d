-- Adds a response to the set of those that a replica runs, or removes it.
-- Answers the number of added or removed members.
local runs_key = KEYS[1]
local response, runs = ARGV[1], ARGV[2] == '1'

return redis.call(runs and 'SADD' or 'SREM', runs_key, response)
