-- Adds `weight` to the uses of a prompt with a model; only the `kept` hottest uses are kept.
-- Answers how many uses were dropped.
local hot = KEYS[1]
local use, weight, kept = ARGV[1], ARGV[2], tonumber(ARGV[3])

redis.call('ZINCRBY', hot, weight, use)
return redis.call('ZREMRANGEBYRANK', hot, 0, -1 - kept)
