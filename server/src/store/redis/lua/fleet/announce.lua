-- Updates the set of responses that are followed at a replica: adds the first `followed` responses of the arguments, and removes the
-- others.
-- Answers 1.
local follows_key = KEYS[1]
local keep_ms, followed = ARGV[1], tonumber(ARGV[2])

for at = 3, #ARGV do
  redis.call(at < 3 + followed and 'SADD' or 'SREM', follows_key, ARGV[at])
end
redis.call('PEXPIRE', follows_key, keep_ms)
return 1
