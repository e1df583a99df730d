-- Deletes a response with its log, and ends its followers.
-- Answers {state, the client's request id}: state 0 if the tenant has no such response, 1 if it is deleted, 2 if it has expired.
local meta_key, log_key, gone_key = KEYS[1], KEYS[2], KEYS[3]
local tenant, channel = ARGV[1], ARGV[2]

local owner_tenant, request = unpack(redis.call('HMGET', meta_key, 'tenant', 'request'))
if not owner_tenant then
  return {redis.call('GET', gone_key) == tenant and 2 or 0, ''}
end
if owner_tenant ~= tenant then return {0, ''} end
redis.call('DEL', meta_key, log_key, gone_key)
redis.call('SPUBLISH', channel, '')
return {1, request}
