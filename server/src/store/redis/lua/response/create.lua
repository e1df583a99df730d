-- Creates a response. If it has ended already and has `store: false`, writes its gone key too.
-- Answers 1 if the response is new or was created by the same call before, 0 if another response has its id.
local meta_key, gone_key = KEYS[1], KEYS[2]
local header, tenant, request, store, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local running_ms, keep_ms, known_ms, ended = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local bytes, charged = ARGV[10], ARGV[11]

if redis.call('EXISTS', meta_key) == 1 then
  return redis.call('HGET', meta_key, 'owner') == owner and 1 or 0
end
redis.call('HSET', meta_key, 'header', header, 'tenant', tenant, 'request', request, 'store', store, 'owner', owner,
  'fence', 1, 'len', 0, 'end', ended, 'cancel', 0, 'keep', keep_ms, 'known', known_ms, 'bytes', bytes, 'charged', charged)
redis.call('PEXPIRE', meta_key, ended == '1' and keep_ms or running_ms)
if ended == '1' and store ~= '1' then redis.call('SET', gone_key, tenant, 'PX', known_ms) end
return 1
