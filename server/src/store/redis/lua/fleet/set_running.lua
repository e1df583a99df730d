-- Adds a response to the set of what a replica runs, or removes it.
-- Answers how many members the set has gained or lost.
local runs_key = KEYS[1]
local response, runs = ARGV[1], ARGV[2] == '1'

return redis.call(runs and 'SADD' or 'SREM', runs_key, response)
