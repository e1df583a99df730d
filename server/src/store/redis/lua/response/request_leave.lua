-- Requests that a response leaves the log that it shares; the owner sees the request at its next append.
-- Answers 0 if the tenant has no such log, otherwise 1.
local meta_key = KEYS[1]
local tenant, response = ARGV[1], ARGV[2]

local owner_tenant, ended, left = unpack(redis.call('HMGET', meta_key, 'tenant', 'end', 'left'))
if owner_tenant ~= tenant then return 0 end
if ended ~= '1' then redis.call('HSET', meta_key, 'left', (left or '') .. ' ' .. response) end
return 1
