-- Deletes the entry of a client's request id if the entry still names this response.
-- Answers 1 if the entry is deleted, otherwise 0.
local request_key = KEYS[1]
local response = ARGV[1]

if redis.call('GET', request_key) == response then return redis.call('DEL', request_key) end
return 0
