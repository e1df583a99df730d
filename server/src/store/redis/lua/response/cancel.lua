-- Requests the cancel of a response; the owner sees the request at its next append or renewal.
-- Answers 0 if the tenant has no such response, 1 if the cancel is requested or the response has ended, 2 if the response has expired.
local meta_key, gone_key = KEYS[1], KEYS[2]
local tenant = ARGV[1]

local owner_tenant, ended = unpack(redis.call('HMGET', meta_key, 'tenant', 'end'))
if not owner_tenant then
  return redis.call('GET', gone_key) == tenant and 2 or 0
end
if owner_tenant ~= tenant then return 0 end
if ended ~= '1' then redis.call('HSET', meta_key, 'cancel', 1) end
return 1
