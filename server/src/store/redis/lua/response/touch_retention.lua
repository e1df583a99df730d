-- Starts the retention of an ended response anew.
-- Answers {0, 0} if the tenant has no such response, {1, retention in ms} if it has ended, {1, 0} if it still runs.
local meta_key, log_key = KEYS[1], KEYS[2]
local tenant = ARGV[1]

local owner_tenant, ended, keep_ms = unpack(redis.call('HMGET', meta_key, 'tenant', 'end', 'keep'))
if owner_tenant ~= tenant then return {0, 0} end
if ended ~= '1' then return {1, 0} end
redis.call('PEXPIRE', meta_key, keep_ms)
redis.call('PEXPIRE', log_key, keep_ms)
return {1, tonumber(keep_ms)}
