-- Renews the time to live of a running response.
-- Answers 1 if its cancel was requested; 0 otherwise, and if the response has ended or is gone.
local meta_key, log_key = KEYS[1], KEYS[2]
local running_ms = ARGV[1]

local ended, cancel = unpack(redis.call('HMGET', meta_key, 'end', 'cancel'))
if ended ~= '0' then return 0 end
redis.call('PEXPIRE', meta_key, running_ms)
redis.call('PEXPIRE', log_key, running_ms)
return tonumber(cancel)
