-- Deletes a prompt with all of its versions.
-- Answers 1; 0 if the tenant has no such prompt.
local index, prompt, bytes_key = KEYS[1], KEYS[2], KEYS[3]
local id = ARGV[1]

if redis.call('ZREM', index, id) == 0 then return 0 end
local bytes, all = 0, redis.call('HGETALL', prompt)
for at = 1, #all, 2 do
  local field, value = all[at], all[at + 1]
  -- The fields of versions are numbers.
  if tonumber(field) then bytes = bytes + #value end
end
redis.call('DEL', prompt)
redis.call('DECRBY', bytes_key, bytes)
return 1
