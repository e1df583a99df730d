-- Creates a conversation with its first items.
-- Answers 1 if the conversation exists now, 0 if another tenant has its id, 3 if the items exceed a bound.
local created_at, metadata, max_items, max_bytes = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local items_at = 7

if redis.call('EXISTS', about) == 1 then return known and 1 or 0 end
if not append(items_at, max_items, max_bytes) then
  redis.call('DEL', about)
  return 3
end
redis.call('HSET', about, 'tenant', tenant, 'created_at', created_at, 'metadata', metadata)
keep()
return 1
