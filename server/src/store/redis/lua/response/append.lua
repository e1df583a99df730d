-- Appends batches of entries to logs, each with three keys and seven arguments, and publishes each batch to the log's followers.
-- Answers for each batch: {0, cancel, left, tenant, charge, keep_ms} if it is applied now or was applied before; {1, …} if it is
-- fenced; {2, len, …} if the log ends before `first`. If `charge` is not 0, the caller sets the tenant's charge for the whole log to
-- that many bytes.

-- The time to live is set when the log begins and when it ends; renew.lua renews it in between.
local function append(meta_key, log_key, gone_key, fence, first, count, last, running_ms, channel, batch)
  local current, len, ended, cancel, store, tenant, keep_ms, known_ms, left, bytes, charged = unpack(redis.call('HMGET',
    meta_key, 'fence', 'len', 'end', 'cancel', 'store', 'tenant', 'keep', 'known', 'left', 'bytes', 'charged'))
  local fenced = {1, 0, '', '', 0, 0}
  if current ~= fence then return fenced end
  len, first = tonumber(len), tonumber(first)
  local applied = {0, tonumber(cancel), left or '', tenant, 0, tonumber(keep_ms)}
  local after = first + tonumber(count)
  if after <= len then return applied end
  if first > len then return {2, len, '', '', 0, 0} end
  if first < len or ended == '1' then return fenced end
  redis.call('XADD', log_key, string.format('%d-0', first + 1), 'b', batch)
  bytes, charged = tonumber(bytes or 0) + #batch + 48, tonumber(charged or 0)
  local charge = 0
  if last == '1' then
    charge = bytes
  elseif bytes > charged then
    charge = bytes + math.max(4096, math.floor(bytes / 4))
  end
  if charge > 0 then
    redis.call('HSET', meta_key, 'len', after, 'bytes', bytes, 'charged', charge)
  else
    redis.call('HSET', meta_key, 'len', after, 'bytes', bytes)
  end
  if last == '1' then
    redis.call('HSET', meta_key, 'end', 1)
    if store ~= '1' then redis.call('SET', gone_key, tenant, 'PX', known_ms) end
  end
  if last == '1' or first == 0 then
    local ttl_ms = last == '1' and keep_ms or running_ms
    redis.call('PEXPIRE', meta_key, ttl_ms)
    redis.call('PEXPIRE', log_key, ttl_ms)
  end
  redis.call('SPUBLISH', channel, batch)
  applied[5] = charge
  return applied
end

local answers = {}
for at = 0, #KEYS / 3 - 1 do
  local k, a = 3 * at, 7 * at
  answers[at + 1] = append(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4],
    ARGV[a + 5], ARGV[a + 6], ARGV[a + 7])
end
return answers
