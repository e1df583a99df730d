-- Adds `weight` to the use of a prompt with a model. Keeps the `kept` uses with the greatest weights.
-- Answers the number of removed uses.
local hot = KEYS[1]
local use, weight, kept = ARGV[1], ARGV[2], tonumber(ARGV[3])

redis.call('ZINCRBY', hot, weight, use)
return redis.call('ZREMRANGEBYRANK', hot, 0, -1 - kept)
